"""Why a policy acts as it does: what each part of an observation adds to its choice, and whether that holds."""
