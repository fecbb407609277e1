"""The MASA: a device maker's voucher service and factory tool (RFC 8995, 5.4 to 5.8)."""
