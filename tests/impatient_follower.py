"""The process that follows, with less patience than it should have."""

from live_restore.sources.bridge import files, follow

if __name__ == "__main__":
    follow._KEEP_S = 0.0
    files._WINDOW_S = 1.5
    follow.main()
