//! Lines for whoever started the program, who may have gone, or have no space left for them.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line of what was done. It is done whether or not anybody reads of it.
pub fn out(line: impl Display) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Prints a line about what is wrong. The exit code says it as well.
pub fn error(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
