"""What happens in a patient: parameters, products, courses, equations, simulation and response."""
