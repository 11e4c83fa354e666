"""Label refinement: voters, rules, and what the changed labels are worth."""
