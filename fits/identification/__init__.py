"""What data can know: exact elasticities, information of a design, profiles, and which samples to take."""
