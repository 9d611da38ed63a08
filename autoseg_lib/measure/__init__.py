"""Areas per slice and volumes of masks."""
