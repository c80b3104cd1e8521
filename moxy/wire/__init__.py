"""The wire: bytes of RESP in, bytes of RESP out, and the table of verbs between them. No I/O."""
