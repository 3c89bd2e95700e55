//! What the exit code of a Loden program says.

/// It did what it was asked to.
pub const OK: u8 = 0;

/// It could not; the reason is on standard error.
pub const FAILED: u8 = 1;

/// A flag, an environment variable or the configuration file is wrong. The
/// command line parser uses this code too.
pub const USAGE: u8 = 2;

/// The named resource does not exist (lodenctl).
pub const NOT_FOUND: u8 = 3;

/// The control plane cannot be reached (lodenctl).
pub const UNREACHABLE: u8 = 4;

/// The paragraph for `--help` of a daemon.
pub const DAEMON_HELP: &str = "\
Exit codes:
  0  ended as asked
  1  failed; the reason is on standard error
  2  a flag, environment variable or the configuration file is wrong";
