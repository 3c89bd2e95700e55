//! What a path carries: everything once a run, and all runs.

use std::time::Duration;

use super::super::metric::quantile;
use super::super::{Scale, Series};
use super::flow::{Carried, Flow, Rates};
use super::{Path, rtt, udp};

/// Echo requests per run.
const ECHOES: usize = 20_000;
/// From the first byte of a flow to the first that counts.
const WARM_UP: Duration = Duration::from_millis(50);

/// The runs of one path.
pub(in crate::bench) struct Measured {
    pub(in crate::bench) path: &'static str,
    pub(in crate::bench) tcp1: Rates,
    pub(in crate::bench) tcp4: Rates,
    pub(in crate::bench) udp200: Series,
    pub(in crate::bench) rtt_p50: Series,
    pub(in crate::bench) rtt_p99: Series,
    pub(in crate::bench) cpu_udp200: Series,
}

impl Measured {
    pub(in crate::bench) fn new(path: &'static str) -> Self {
        Self {
            path,
            tcp1: Rates::default(),
            tcp4: Rates::default(),
            udp200: Series::default(),
            rtt_p50: Series::default(),
            rtt_p99: Series::default(),
            cpu_udp200: Series::default(),
        }
    }

    /// One run; answers a line about it.
    pub(in crate::bench) async fn measure(&mut self, path: &Path, scale: &Scale) -> anyhow::Result<String> {
        let trips = rtt::round_trips(path, scale.count(ECHOES)).await?;
        let micros = |part| quantile(&trips, part).unwrap_or_default();
        self.rtt_p50.push(micros(0.5));
        self.rtt_p99.push(micros(0.99));
        let tcp1 = tcp(path, 1, scale.slice()).await?;
        self.tcp1.push(&tcp1);
        let tcp4 = tcp(path, 4, scale.slice()).await?;
        self.tcp4.push(&tcp4);
        // Last: what waits of it in queues is in nobody's way then.
        let udp = udp::flood(path, scale.slice()).await?;
        self.udp200.push(udp.per_second);
        self.cpu_udp200.push(udp.cpu_micros);
        Ok(format!(
            "{:13} {:5.2} Gbit/s, 4 flows {:5.2}, {:6.0} packets/s, round trip {:.1} µs",
            path.name,
            tcp1.gbit_per_second,
            tcp4.gbit_per_second,
            udp.per_second,
            micros(0.5)
        ))
    }
}

async fn tcp(path: &Path, streams: usize, time: Duration) -> anyhow::Result<Carried> {
    let flow = Flow::start(path, streams, false).await?;
    tokio::time::sleep(WARM_UP).await;
    let carried = flow.watch(time).await?;
    flow.stop().await?;
    Ok(carried)
}
