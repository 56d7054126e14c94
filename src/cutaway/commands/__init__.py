"""The subcommands of `cutaway`, one file per idea; nothing here imports torch before a command needs it."""
