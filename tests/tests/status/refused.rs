//! Agents without a lease: refused for ever, refused for now, and told to wait.

use anyhow::{Context, ensure};
use loden_tests::deployment::Deployment;

use crate::{CONVERGED, SOON, line, status};

/// A gauge of the control plane.
async fn gauge(deployment: &Deployment, name: &str) -> anyhow::Result<u32> {
    let (_, text) = deployment.control.get("/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("there is no {name} in:\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_gets_no_lease_is_named_with_the_rule_until_it_has_one() -> anyhow::Result<()> {
    let mut deployment = Deployment::start("refused", &["--settle", "5s"]).await?;
    // Three subnets, two of which nobody else gets.
    deployment.create_network("default", "10.244.0.0/22").await?;
    for (node, subnet) in [("x", "10.244.1.0/24"), ("y", "10.244.2.0/24")] {
        deployment.lodenctl(&["reservation", "create", "default", node, subnet]).await?;
    }
    let mut a = deployment.add_node("a", 11, &[]).await?;
    a.ready(SOON).await?;
    status(&deployment, &[CONVERGED], &["Not converged"]).await?;

    let b = deployment.add_node("b", 12, &[]).await?;
    let _lost = deployment.add_node("lost", 13, &["--network", "nowhere"]).await?;
    let text = status(&deployment, &["EXHAUSTED", "nowhere"], &[CONVERGED]).await?;
    let of_b = line(&text, &["b", "default"]).with_context(|| format!("b is not named:\n{text}"))?;
    for part in
        ["is refused a lease", "networks/default has no free IPv4 subnet left", "(RESOURCE_EXHAUSTED)"]
    {
        ensure!(of_b.contains(part), "without {part:?}: {of_b}");
    }
    let of_lost = line(&text, &["lost", "nowhere"]).with_context(|| format!("lost is not named:\n{text}"))?;
    ensure!(of_lost.contains("networks/nowhere does not exist (NOT_FOUND)"), "{of_lost}");
    ensure!(line(&text, &["a", "default"]).is_none(), "a has converged:\n{text}");
    let listed = deployment.lodenctl(&["node", "list"]).await?;
    let of_b = line(&listed, &["b", "no,"]).with_context(|| format!("b is not listed:\n{listed}"))?;
    ensure!(of_b.contains("RESOURCE_EXHAUSTED"), "{of_b}");
    let json = deployment.lodenctl_json(&["node", "get", "b"]).await?;
    let refusal = &json["networks"][0]["refusal"];
    ensure!(refusal["code"] == "RESOURCE_EXHAUSTED" && refusal["reason"] == "EXHAUSTED", "{json:#}");
    ensure!(refusal["address"].as_str().is_some_and(|from| from.starts_with("192.0.2.12:")), "{json:#}");
    let json = deployment.lodenctl_json(&["status"]).await?;
    ensure!(json["refused_nodes"] == 2 && json["unconverged"][0]["node"] == "b", "{json:#}");
    ensure!(gauge(&deployment, "loden_nodes_refused").await? == 2);

    deployment.lodenctl(&["reservation", "delete", "default", "x"]).await?;
    b.ready(SOON).await?;
    status(&deployment, &["\nlost "], &["EXHAUSTED", "\nb "]).await?;

    // A new one waits for those that were there before the server started.
    a.kill9().await?;
    deployment.lodenctl(&["reservation", "delete", "default", "y"]).await?;
    deployment.control.kill9().await?;
    deployment.control.start().await?;
    let c = deployment.add_node("c", 14, &[]).await?;
    let text = status(&deployment, &["SETTLING"], &[CONVERGED]).await?;
    let of_c = line(&text, &["c", "default"]).with_context(|| format!("c is not named:\n{text}"))?;
    ensure!(of_c.contains("waits for a lease: SETTLING") && of_c.contains("(UNAVAILABLE)"), "{of_c}");
    ensure!(gauge(&deployment, "loden_nodes_waiting").await? == 1);
    c.ready(SOON).await?;
    status(&deployment, &["\na "], &["SETTLING", "\nc "]).await?;
    ensure!(gauge(&deployment, "loden_nodes_waiting").await? == 0);
    Ok(())
}
