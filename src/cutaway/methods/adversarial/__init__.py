"""Pictures changed a little so that the network answers otherwise."""
