"""Links from tasks to the pages of the services that they use."""
