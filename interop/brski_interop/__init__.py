"""Where the BRSKI roles meet: demo, bench and inspect."""
