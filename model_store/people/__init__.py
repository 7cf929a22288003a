"""What the service and the batch jobs both know of people: owners, histories, the event log."""
