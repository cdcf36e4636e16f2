"""What every other room builds on: errors, and helpers a few lines long."""
