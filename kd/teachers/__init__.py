"""Live, cached and served teachers, and rollouts of the student."""
