"""samgeo's API."""
