"""The other end of the wire: a local gateway to develop, test and rehearse against."""
