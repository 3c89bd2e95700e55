//! Somebody who goes on working: reads and changes, one after the other.

use std::time::{Duration, Instant};

use anyhow::ensure;
use loden_proto::v1;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::list;

/// Calls without a pause, until it is told to end.
pub(crate) struct Work {
    stop: watch::Sender<bool>,
    /// How many calls, and how long the longest took.
    calls: JoinHandle<anyhow::Result<(usize, Duration)>>,
}

impl Work {
    pub(crate) fn begin(admin: Channel) -> Self {
        let stop = watch::Sender::new(false);
        let told = stop.subscribe();
        let calls = tokio::spawn(async move {
            let mut networks = NetworkServiceClient::new(admin.clone());
            let (mut calls, mut longest) = (0, Duration::ZERO);
            while !*told.borrow() {
                let begin = Instant::now();
                list(&admin).await?;
                longest = longest.max(begin.elapsed());
                let begin = Instant::now();
                let network = v1::Network {
                    name: format!("networks/net-0-{}", "x".repeat(40)),
                    mtu: Some(1280 + calls % 200),
                    ..Default::default()
                };
                let mut request = v1::UpdateNetworkRequest { network: Some(network), ..Default::default() };
                request.update_mask.get_or_insert_default().paths.push("mtu".to_owned());
                networks.update_network(request).await?;
                longest = longest.max(begin.elapsed());
                calls += 1;
            }
            Ok((2 * calls as usize, longest))
        });
        Self { stop, calls }
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.calls.is_finished(), "the one who works has ended");
        Ok(())
    }

    pub(crate) async fn end(self) -> anyhow::Result<(usize, Duration)> {
        self.stop.send_replace(true);
        self.calls.await?
    }
}
