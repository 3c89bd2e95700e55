//! What is ours in a host's kernel, and what is not.

use std::collections::BTreeSet;
use std::fs;

use super::{Error, Host};

/// All objects that stay, a line for each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holdings {
    /// The tunnel with its settings and what is on it, and the routes of the agent's protocol number, 76, on any device.
    pub ours: BTreeSet<String>,
    /// Everything else.
    pub foreign: BTreeSet<String>,
}

impl Holdings {
    /// What there is on a host. Where there is no device of the `tunnel`'s name, only routes are ours.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn of(host: &Host, tunnel: &str) -> Result<Self, Error> {
        let objects = host.objects().await?;
        let named = format!("IfName(\"{tunnel}\")");
        let index = objects.iter().find(|object| object.line.contains(&named)).map(|object| object.device);
        let (mut ours, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        for object in objects {
            let is_route = object.line.starts_with("route ") && object.line.contains("protocol: Other(76)");
            if Some(object.device) == index || is_route {
                ours.insert(object.line);
            } else {
                foreign.insert(format!("device {}: {}", object.device, object.line));
            }
        }
        ours.extend(settings(host, tunnel));
        Ok(Self { ours, foreign })
    }

    /// What differs, for people.
    #[must_use]
    pub fn differs_from(&self, wanted: &Self) -> Option<String> {
        let side = |name: &str, now: &BTreeSet<String>, wanted: &BTreeSet<String>| {
            let lacks: Vec<_> = wanted.difference(now).collect();
            let more: Vec<_> = now.difference(wanted).collect();
            (!lacks.is_empty() || !more.is_empty())
                .then(|| format!("{name}: lacks {lacks:#?}, has {more:#?}"))
        };
        let ours = side("ours", &self.ours, &wanted.ours);
        ours.or_else(|| side("not ours", &self.foreign, &wanted.foreign))
    }
}

/// A device's settings; none where it is not there.
fn settings(host: &Host, device: &str) -> Vec<String> {
    let files = ["ipv4 rp_filter", "ipv4 forwarding", "ipv6 accept_ra", "ipv6 keep_addr_on_down"];
    host.enter(|| {
        let read = files.iter().filter_map(|file| {
            let (family, name) = file.split_once(' ')?;
            let value = fs::read_to_string(format!("/proc/sys/net/{family}/conf/{device}/{name}")).ok()?;
            Some(format!("setting {file} {}", value.trim_end()))
        });
        read.collect()
    })
}
