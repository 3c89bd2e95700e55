//! Settings of forwarding and filtering as the kernel announces them (`linux/netconf.h`). Other settings it
//! changes in silence.

use super::frames::attributes;
use crate::tables::Setting;

/// A change of settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Netconf {
    pub(super) of: Of,
    /// Settings that a device of ours has, with their values.
    pub(super) settings: Vec<(Setting, i32)>,
}

/// Whose settings they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Of {
    /// The host's as a whole.
    All,
    /// Of devices that are yet to come.
    Default,
    /// A device's, by its index.
    Device(u32),
}

impl Netconf {
    /// Reads what follows the header of a message: `struct netconfmsg` and attributes.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        const INDEX: u16 = 1;
        const FORWARDING: u16 = 2;
        const RP_FILTER: u16 = 3;
        let of_v4 = i32::from(*body.first()?) == libc::AF_INET;
        let (mut of, mut settings) = (None, Vec::new());
        for (kind, value) in attributes(body.get(4..)?) {
            let Ok(value) = value.try_into().map(i32::from_ne_bytes) else { continue };
            match kind {
                INDEX => of = Some(of_index(value)),
                FORWARDING if of_v4 => settings.push((Setting::Forwarding, value)),
                RP_FILTER if of_v4 => settings.push((Setting::RpFilter, value)),
                _ => {}
            }
        }
        Some(Self { of: of?, settings })
    }
}

/// `NETCONFA_IFINDEX_ALL` and `NETCONFA_IFINDEX_DEFAULT` are negative.
fn of_index(index: i32) -> Of {
    match index {
        -1 => Of::All,
        device => u32::try_from(device).map_or(Of::Default, Of::Device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(family: i32, attributes: &[(u16, i32)]) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(family).unwrap(), 0, 0, 0];
        for (kind, value) in attributes {
            bytes.extend(8u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn it_says_whose_settings_have_changed_to_what() {
        let of = |index| Netconf::read(&body(libc::AF_INET, &[(1, index), (3, 1)])).unwrap();
        assert_eq!(of(-1).of, Of::All);
        assert_eq!(of(-2).of, Of::Default);
        assert_eq!(of(7), Netconf { of: Of::Device(7), settings: vec![(Setting::RpFilter, 1)] });
        let v6 = Netconf::read(&body(libc::AF_INET6, &[(1, 7), (2, 0)])).unwrap();
        assert_eq!(v6, Netconf { of: Of::Device(7), settings: Vec::new() });
        assert_eq!(Netconf::read(&body(libc::AF_INET, &[(3, 1)])), None);
        assert_eq!(Netconf::read(&[]), None);
    }
}
