"""What a socket is bound or connected to: values, designators, look-ups and interfaces.

From the inside out: `hosts` reads literal hosts, `values` are the addresses, `designators`
reads whatever a user may write for one, `resolver` asks Trio's resolver, `resolve` turns
designators into addresses, `lookups` are IOLib's questions about hosts, services and
protocols, `predicates` what `ipaddress` does not answer, `interfaces` what this machine has.
"""
