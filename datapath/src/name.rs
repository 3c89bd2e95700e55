//! Names of network devices.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

use loden_proto::InvalidValue;

/// The name of a network device: 1 to 15 bytes, no `/`, no white space, not
/// `.` or `..` (the kernel's `dev_valid_name`). Copied freely: every table key
/// has one.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceName([u8; Self::SIZE]);

impl DeviceName {
    /// `IFNAMSIZ`, the closing zero included.
    const SIZE: usize = 16;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::SIZE);
        // Built from whole strings only, so the fallback is never taken.
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl FromStr for DeviceName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let forbidden = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
        if text.is_empty()
            || text.len() >= Self::SIZE
            || text.contains(forbidden)
            || [".", ".."].contains(&text)
        {
            return Err(InvalidValue::new(
                text,
                "must be a device name: 1 to 15 bytes without '/', ':' or spaces",
            ));
        }
        let mut bytes = [0; Self::SIZE];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }
}

impl Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for DeviceName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_is_what_the_kernel_takes() {
        for text in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
        let name: DeviceName = "loden16777215a".parse().unwrap();
        assert_eq!(name.as_str(), "loden16777215a");
        assert_eq!("fifteen-bytes-x".parse::<DeviceName>().unwrap().to_string(), "fifteen-bytes-x");
    }
}
