//! Settings of devices below `/proc/sys/net`.

use std::fmt::{self, Display};

use loden_proto::model::Family;

use crate::name::DeviceName;

/// Key of a setting.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SysctlKey {
    /// The device.
    pub device: DeviceName,
    /// Which setting.
    pub setting: Setting,
}

impl SysctlKey {
    /// The path below `/proc/sys`.
    #[must_use]
    pub fn path(&self) -> String {
        let family = match self.setting.family() {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let file = match self.setting {
            Setting::AcceptRa => "accept_ra",
            Setting::KeepAddrOnDown => "keep_addr_on_down",
            Setting::RpFilter => "rp_filter",
            Setting::Forwarding => "forwarding",
        };
        format!("net/{family}/conf/{}/{file}", self.device)
    }
}

impl Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// A setting of a device (the kernel's `ip-sysctl.rst`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Setting {
    /// Take router advertisements; 0 on a tunnel.
    AcceptRa,
    /// Keep IPv6 addresses while the device is down; 1, or they are lost.
    KeepAddrOnDown,
    /// Reverse path filter; 2 (loose), since a path may change at any time.
    RpFilter,
    /// Forward IPv4 packets that come in; 1 on a host that forwards. IPv6 looks
    /// at the host's own setting only.
    Forwarding,
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AcceptRa, Self::KeepAddrOnDown, Self::RpFilter, Self::Forwarding];

    /// The family whose packets it is about.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::AcceptRa | Self::KeepAddrOnDown => Family::V6,
            Self::RpFilter | Self::Forwarding => Family::V4,
        }
    }

    /// What a tunnel device of ours has.
    #[must_use]
    pub const fn wanted(self) -> i32 {
        match self {
            Self::AcceptRa => 0,
            Self::KeepAddrOnDown | Self::Forwarding => 1,
            Self::RpFilter => 2,
        }
    }
}
