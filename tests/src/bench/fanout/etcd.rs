//! etcd itself, with as many watchers of a prefix as there are followers, told of the same changes.

use std::path::Path;

use anyhow::Context;
use tokio::time::sleep;

use super::super::Scale;
use super::super::swarm::{Kind, Order, Served, Swarm};
use super::super::usage::resident_kib;
use super::followers::Told;
use super::{LIMIT, join, seconds};
use crate::deployment::{Etcd, EtcdSettings, Underlay};
use crate::hosts::Lab;

/// What the figures are compared with.
pub(super) const NAME: &str = "etcd, watchers on 100 connections";

/// A round of it.
pub(super) async fn round(told: &mut Told, program: &Path, scale: &Scale) -> anyhow::Result<String> {
    let lab = Lab::new("etcd")?;
    let fabric = lab.fabric("fabric").await?;
    let settings = EtcdSettings { members: 1, tls: true, ..EtcdSettings::default() };
    let mut etcd = Etcd::prepare(&lab, &fabric, Underlay::V4, settings).await?;
    etcd.start().await?;
    let pki = etcd.certificates().context("etcd speaks no TLS")?.to_owned();
    let served = Served { endpoint: etcd.endpoint(0)?, cluster: "etcd".to_owned(), pki };
    let member = etcd.member(0)?;
    let pid = member.process.as_ref().context("etcd does not run")?.pid();
    let (kind, count) = (Kind::EtcdWatchers, scale.followers);
    let mut swarm = Swarm::start_at(&member.host, lab.directory(), &served, program, (kind, count)).await?;
    swarm.order(&Order::Fill { network: super::NETWORK.to_owned() }, LIMIT).await?;
    let before = resident_kib(pid)?;
    let join = seconds(swarm.order(&join(), LIMIT).await?)?;
    sleep(scale.calm()).await;
    let rss = (resident_kib(pid)? - before) / count as f64;
    told.join.push(join);
    told.rss.push(rss);
    let line = told.changes(pid, &mut swarm, scale).await?;
    Ok(format!("watching after {join:.1} s, {rss:.1} KiB each, {line}"))
}
