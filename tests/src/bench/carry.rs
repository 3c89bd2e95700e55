//! A way from one namespace to another, and what is sent over it to see what it carries.

pub(in crate::bench) mod flow;
pub(in crate::bench) mod measured;
pub(in crate::bench) mod rtt;
pub(in crate::bench) mod udp;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;

use crate::hosts::Namespace;
use crate::traffic::Ping;

/// A way from one namespace to another.
#[derive(Clone)]
pub(in crate::bench) struct Path {
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) from: Namespace,
    pub(in crate::bench) to: Namespace,
    pub(in crate::bench) target: IpAddr,
}

impl Path {
    pub(in crate::bench) fn new(
        name: &'static str,
        from: &Namespace,
        to: &Namespace,
        target: IpAddr,
    ) -> Self {
        Self { name, from: from.clone(), to: to.clone(), target }
    }

    /// Waits until it carries a packet.
    pub(in crate::bench) async fn carries(&self, patience: Duration) -> anyhow::Result<()> {
        let ping = Ping::to(self.target).start(&self.from)?;
        let reached = ping.reach(patience).await;
        ping.stop().await?;
        reached.with_context(|| format!("{} carries nothing", self.name))?;
        Ok(())
    }
}
