//! What is ours in a host's kernel, and what is not.

use std::collections::BTreeSet;

use super::{Error, Host};

/// All objects that stay, a line for each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holdings {
    /// The tunnel and what is on it, and the routes of the agent's protocol number, 76, on any device.
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
        let tunnel = objects.iter().find(|object| object.line.contains(&named)).map(|object| object.device);
        let (mut ours, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        for object in objects {
            let is_route = object.line.starts_with("route ") && object.line.contains("protocol: Other(76)");
            if Some(object.device) == tunnel || is_route {
                ours.insert(object.line);
            } else {
                foreign.insert(format!("device {}: {}", object.device, object.line));
            }
        }
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
