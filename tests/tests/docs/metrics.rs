//! The metrics that `operations.md` lists are those that the running programs have.

use std::collections::BTreeSet;
use std::time::Duration;

use loden_tests::deployment::Deployment;

use crate::markdown::{code, document};

/// Metrics by their names on the wire, from `# TYPE` lines.
fn registered(exposition: &str) -> BTreeSet<String> {
    let types = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect()
}

fn documented(heading: &str) -> BTreeSet<String> {
    let rows = document("docs/operations.md").section(heading).rows();
    let names: Vec<_> = rows.iter().map(|row| code(&row[0]).to_owned()).collect();
    let set: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(set.len(), names.len(), "a metric is listed twice: {names:?}");
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_both_daemons_is_documented_and_no_other() -> anyhow::Result<()> {
    let deployment = Deployment::start("docs-metrics", &[]).await?;
    let network = ["network", "create", "default", "--pool", "10.244.0.0/16", "--backend", "udp"];
    deployment.lodenctl(&network).await?;
    let node = deployment.add_node("a", 11, &[]).await?;
    node.ready(Duration::from_secs(30)).await?;
    let (_, control) = deployment.control.get("/metrics").await?;
    assert_eq!(registered(&control), documented("### Metrics of the control plane"));
    let rows = document("docs/operations.md").section("### Metrics of the control plane").rows();
    for reason in control.split("{reason=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let ended = rows.iter().find(|row| row[0].contains("connections_ended"));
        assert!(ended.is_some_and(|row| row[2].contains(&format!("`{reason}`"))), "{reason}");
    }
    let (_, agent) = node.get("/metrics").await?;
    let mut all = documented("### Metrics of the agent");
    all.extend(documented("### Metrics of UDP tunnels"));
    assert_eq!(registered(&agent), all);
    Ok(())
}

/// `loden_…` words anywhere in the prose.
#[test]
fn every_metric_that_is_named_is_listed() {
    let mut listed = documented("### Metrics of the control plane");
    listed.extend(documented("### Metrics of the agent"));
    listed.extend(documented("### Metrics of UDP tunnels"));
    for document in crate::markdown::documents() {
        for (number, line) in document.prose() {
            for quoted in line.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("loden_")) {
                let name = quoted.split([' ', '{', '=', ':']).next().unwrap();
                // A crate of ours, not a metric.
                let is_crate = quoted.contains("::") || quoted.contains(',');
                assert!(is_crate || listed.contains(name), "{}:{number}: {name}", document.path.display());
            }
        }
    }
}
