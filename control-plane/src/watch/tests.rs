//! Contract of the watch.
