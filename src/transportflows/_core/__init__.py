"""What every other module stands on: shapes, random streams, derivatives, refusals, files."""
