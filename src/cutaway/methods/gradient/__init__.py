"""Attribution by the gradient of the target."""
