//! Every benchmark runs from end to end and tells what it has to tell.

#![cfg(test)]

use std::collections::BTreeSet;
use std::process::Command;

use loden_tests::bench::{Bench, Report};

const PROGRAM: &str = env!("CARGO_BIN_EXE_loden-bench");

/// Names that others rely on, by benchmark; there may be more.
const AGREED: [(Bench, &[&str]); 7] = [
    (
        Bench::Throughput,
        &[
            "tcp1_raw",
            "tcp1_routed",
            "tcp1_hostgw",
            "tcp1_vxlan_hand",
            "tcp1_vxlan_hand_ct",
            "tcp1_vxlan",
            "tcp4_hostgw",
            "rtt_p50_hostgw",
            "rtt_p99_vxlan",
            "udp200_vxlan_hand_ct",
            "cpu_per_gbit_vxlan",
            "hostgw_vs_routed_ct",
            "aa_control_hostgw_vs_routed_ct",
            "vxlan_vs_hand_ct",
            "aa_control_vxlan_vs_hand_ct",
            "cost_conntrack_vxlan",
            "cost_rule_between_pods_hostgw",
            "aa_control_costs_hostgw",
        ],
    ),
    (
        Bench::Tunnel,
        &[
            "tcp1_vs_vxlan",
            "tcp1_vs_naive",
            "tcp4_vs_vxlan",
            "tcp1_vs_vxlan_wire",
            "tcp1_vs_naive_wire",
            "tcp4_vs_vxlan_wire",
            "rtt_p50_vs_vxlan",
            "rtt_p99_vs_vxlan",
            "udp200_vs_naive",
            "packets_per_send",
            "packets_per_write",
            "reordered",
            "retransmits",
        ],
    ),
    // The smoke run has a hundredth of the peers.
    (
        Bench::Datapath,
        &[
            "program_vxlan_10",
            "program_vxlan_100",
            "program_vxlan_500",
            "program_dual_100",
            "program_hostgw_100",
            "withdraw_vxlan_100",
            "delta_p99_100",
            "restart_writes_100",
            "rss_100",
            "heal_p99",
            "linkdown_heal_100",
            "linkdown_heal_500",
        ],
    ),
    (
        Bench::Store,
        &[
            "durable_leases_sled_256",
            "durable_leases_etcd_256",
            "store_commits_sled_256",
            "lease_p99_sled_256",
            "reopen_10k",
            "reopen_10k_later",
        ],
    ),
    // The smoke run has 40 followers instead of 10,000, and 20 agents instead of 1,000.
    (
        Bench::Fanout,
        &[
            "join_40",
            "rss_per_stream",
            "change_p99_40",
            "steady_cpu_20",
            "steady_lag_p99_20",
            "applied_p99_20",
            "cpu_per_stream_us",
            "reconnect_40",
            "join_agents_20",
            "reconnect_agents_20",
            "entry_encodings",
            "snapshot_encodings_reconnect",
        ],
    ),
    (Bench::Identity, &["join_to_first_peer", "joins_20", "revoke_p99", "revoke_last"]),
    (
        Bench::Chaos,
        &[
            "faults",
            "acknowledged",
            "lost",
            "violations",
            "processes_ended",
            "pings_sent",
            "pings_lost",
            "converged",
            "swarm_converged",
        ],
    ),
];

#[test]
fn every_benchmark_runs_and_writes_what_was_agreed() {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM).arg("--quick").arg("--out").arg(out.path()).output().unwrap();
    let (said, table) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}\n{said}", output.status);

    assert_eq!(AGREED.map(|(bench, _)| bench), Bench::ALL);
    for (bench, agreed) in AGREED {
        let path = out.path().join(format!("{}.json", bench.name()));
        let report: Report = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(report.bench, bench.name());
        assert!(report.machine.cpus > 0 && !report.machine.kernel.is_empty(), "{:?}", report.machine);
        let names: BTreeSet<&str> = report.metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names.len(), report.metrics.len(), "a name of {} is there twice", bench.name());
        for name in agreed {
            assert!(names.contains(name), "{} lacks {name}: {names:?}", bench.name());
        }
        for metric in &report.metrics {
            let name = &metric.name;
            assert!(
                metric.runs > 0 && metric.min <= metric.value && metric.value <= metric.max,
                "{metric:?}"
            );
            assert_eq!(metric.baseline.is_some(), metric.baseline_value.is_some(), "{name}");
            assert!(table.contains(name), "{name} is not in the table");
        }
    }
}

#[test]
fn the_list_names_every_benchmark() {
    let output = Command::new(PROGRAM).arg("--list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = list.lines().filter_map(|line| line.split_ascii_whitespace().next()).collect();
    assert_eq!(names, Bench::ALL.iter().map(|bench| bench.name()).collect::<Vec<_>>());
}

#[test]
fn an_unknown_benchmark_is_bad_usage() {
    let output = Command::new(PROGRAM).arg("nothing").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing") && said.contains("throughput"), "{said}");
}
