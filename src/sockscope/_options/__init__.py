"""The socket options: one table, and what it drives.

Read in this order: `value_types` (values that users see), `kinds`, `codec`, `codec_struct`,
`model` (what a row is), `table_ip`, `table_transport`, `table_socket`, `table` (the index of
them all), `plan` (onto a socket, in order), `report` (back from it), `values`
(`SocketOptions`), `children`, `access`, `features`.
"""
