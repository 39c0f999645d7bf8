"""The process that answers bid requests and notices."""
