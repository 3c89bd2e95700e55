//! Leases, reservations, watches, and lists of them.

use loden_proto::reason::Reason;
use loden_proto::v1;
use tonic::Code;

use super::{As, Bad, invalid, refused};
use crate::call::{Call, acquire, acquire_claim, acquire_request, endpoint, reserve, reserve_subnet};

pub(super) fn all() -> Vec<Bad> {
    let mut all = acquires();
    all.extend(leases());
    all.extend(others());
    all.extend(texts());
    all
}

fn acquires() -> Vec<Bad> {
    let claim = |subnets: &[&str], says| invalid(As::B, acquire_claim(subnets), says);
    vec![
        refused(
            As::B,
            acquire(|request| request.network = "networks/nowhere".into()),
            Code::NotFound,
            Reason::NotFound,
            &["networks/nowhere", "does not exist"],
        ),
        invalid(As::B, acquire(|request| request.network.clear()), &["network", "is required"]),
        invalid(As::B, acquire(|request| request.instance_id.clear()), &["instance_id", "is required"]),
        invalid(
            As::B,
            acquire(|request| request.instance_id = "seven".into()),
            &["instance_id", "\"seven\"", "32 hexadecimal digits"],
        ),
        // A subnet that is the underlay's own, of the internet, or of everybody.
        claim(
            &["192.0.2.0/24"],
            &["claim[0]", "\"192.0.2.0/24\"", "is not a subnet of a pool", "10.244.0.0/16"],
        ),
        claim(&["8.8.8.0/24"], &["claim[0]", "\"8.8.8.0/24\"", "is not a subnet of a pool"]),
        claim(&["0.0.0.0/0"], &["claim[0]", "\"0.0.0.0/0\"", "is not a subnet of a pool"]),
        claim(&["0.0.0.0/1"], &["claim[0]", "\"0.0.0.0/1\"", "is not a subnet of a pool"]),
        claim(&["10.244.0.0/16"], &["claim[0]", "\"10.244.0.0/16\"", "is not a subnet of a pool"]),
        claim(&["10.244.8.0/25"], &["claim[0]", "\"10.244.8.0/25\"", "is not a subnet of a pool"]),
        claim(&["10.244.0.0/24"], &["claim[0]", "\"10.244.0.0/24\"", "first subnet", "never given out"]),
        claim(&["10.244.8.1/24"], &["claim", "\"10.244.8.1/24\"", "has host bits set"]),
        claim(&["10.244.8.0/24", "10.244.9.0/24"], &["claim", "\"10.244.9.0/24\"", "one per family"]),
        claim(&["mine"], &["claim[0]", "\"mine\"", "must be a CIDR"]),
        refused(
            As::B,
            acquire(|request| {
                request.network = "networks/small".into();
                request.endpoint.get_or_insert_default().receivers.clear();
            }),
            Code::ResourceExhausted,
            Reason::Exhausted,
            &["networks/small", "no free IPv4 subnet", "10.9.0.0/22"],
        ),
    ]
}

fn leases() -> Vec<Bad> {
    const A: &str = "networks/default/leases/a";
    const B: &str = "networks/default/leases/b";
    let renew = |name: &str, epoch| Call::RenewLease(v1::RenewLeaseRequest { name: name.into(), epoch });
    let release =
        |name: &str, epoch| Call::ReleaseLease(v1::ReleaseLeaseRequest { name: name.into(), epoch });
    let publish = |name: &str, epoch, endpoint| {
        Call::UpdateEndpoint(v1::UpdateEndpointRequest { name: name.into(), epoch, endpoint })
    };
    let missing = |who, call, says| refused(who, call, Code::NotFound, Reason::NotFound, says);
    // The lease of `a` has been acquired twice, so 1 is an old epoch.
    let stale = |call| {
        let says = &["epoch", "\"1\"", "networks/default/leases/a", "acquire the lease again"];
        refused(As::A, call, Code::Aborted, Reason::StaleEpoch, says)
    };
    vec![
        missing(As::B, renew(B, 1), &["networks/default/leases/b", "does not exist"]),
        missing(As::B, release(B, 1), &["networks/default/leases/b", "does not exist"]),
        missing(As::B, publish(B, 1, Some(endpoint(0x0b))), &["networks/default/leases/b", "does not exist"]),
        missing(As::B, Call::GetLease(B), &["networks/default/leases/b", "does not exist"]),
        missing(As::Admin, release(B, 0), &["networks/default/leases/b", "does not exist"]),
        stale(renew(A, 1)),
        stale(release(A, 1)),
        stale(publish(A, 1, Some(endpoint(0x0a)))),
        invalid(As::A, renew(A, 0), &["epoch", "is required"]),
        invalid(As::A, release(A, 0), &["epoch", "is required"]),
        invalid(As::A, publish(A, 7, None), &["endpoint", "is required"]),
        invalid(As::A, renew("networks/default", 1), &["name", "networks/{network}/leases/{node}"]),
        invalid(As::A, renew("networks/default/leases/A", 1), &["name", "\"A\"", "DNS name"]),
        invalid(As::Admin, Call::GetLease("a"), &["name", "\"a\"", "networks/{network}/leases/{node}"]),
    ]
}

fn others() -> Vec<Bad> {
    let leases = |page_size, page_token: &str| {
        let parent = "networks/-".into();
        Call::ListLeases(v1::ListLeasesRequest { parent, page_size, page_token: page_token.into() })
    };
    let watch = |instance_id: &str| {
        let network = "networks/default".into();
        let request =
            v1::WatchPeersRequest { network, instance_id: instance_id.into(), ..Default::default() };
        Call::WatchPeers(request)
    };
    let parent = |parent: &str| {
        Call::ListLeases(v1::ListLeasesRequest { parent: parent.into(), ..Default::default() })
    };
    let instance = acquire_request(0x0b, |_| ()).instance_id;
    vec![
        invalid(As::Admin, leases(-1, ""), &["page_size", "\"-1\"", "0 to 1000"]),
        invalid(As::Admin, leases(1001, ""), &["page_size", "\"1001\"", "0 to 1000"]),
        invalid(As::Admin, leases(0, "next"), &["page_token", "\"next\"", "next_page_token"]),
        invalid(As::Admin, parent("default"), &["parent", "\"default\"", "networks/{network}"]),
        invalid(As::Admin, reserve_subnet("10.9.1.0/24"), &["subnets[0]", "\"10.9.1.0/24\"", "not a subnet"]),
        invalid(
            As::Admin,
            reserve_subnet("10.244.0.0/24"),
            &["subnets[0]", "\"10.244.0.0/24\"", "never given"],
        ),
        invalid(As::Admin, reserve_subnet("10.244.3.1/24"), &["subnets", "\"10.244.3.1/24\"", "host bits"]),
        invalid(
            As::Admin,
            reserve(|reservation| reservation.subnets.clear()),
            &["reservation.subnets", "at least one subnet"],
        ),
        invalid(
            As::Admin,
            reserve(|reservation| reservation.name = "networks/default/leases/b".into()),
            &["reservation.name", "networks/{network}/reservations/{node}"],
        ),
        invalid(As::Admin, Call::CreateReservation(Default::default()), &["reservation", "is required"]),
        refused(
            As::Admin,
            // The lease of `a` was acquired with a claim to it.
            reserve_subnet("10.244.7.0/24"),
            Code::FailedPrecondition,
            Reason::Taken,
            &["subnets[0]", "\"10.244.7.0/24\"", "in use by networks/default/leases/a"],
        ),
        refused(
            As::Admin,
            Call::DeleteReservation("networks/default/reservations/b"),
            Code::NotFound,
            Reason::NotFound,
            &["networks/default/reservations/b", "does not exist"],
        ),
        refused(
            As::Admin,
            Call::GetNode("nodes/nobody"),
            Code::NotFound,
            Reason::NotFound,
            &["nodes/nobody", "does not exist"],
        ),
        invalid(As::Admin, Call::GetNode("nobody"), &["name", "\"nobody\"", "nodes/{node}"]),
        refused(
            As::B,
            watch(&instance),
            Code::FailedPrecondition,
            Reason::NotFound,
            &["networks/default/leases/b", "does not exist", "acquire it first"],
        ),
        invalid(As::A, watch("x"), &["instance_id", "\"x\"", "32 hexadecimal digits"]),
        refused(
            As::A,
            watch(&instance),
            Code::FailedPrecondition,
            Reason::StaleEpoch,
            &["instance_id", "networks/default/leases/a"],
        ),
        refused(
            As::B,
            Call::ReportStatus(v1::ReportStatusRequest {
                network: "networks/default".into(),
                ..Default::default()
            }),
            Code::NotFound,
            Reason::NotFound,
            &["networks/default/leases/b", "does not exist"],
        ),
    ]
}

/// What would steer the terminal of whoever looks at it.
fn texts() -> Vec<Bad> {
    vec![
        report(|report| report.version = "1\u{1b}[2J".into(), &["version", r#""1\u{1b}[2J""#, PRINTABLE]),
        report(
            |report| report.not_ready_reason = "no\ndisk".into(),
            &["not_ready_reason", r#""no\ndisk""#, PRINTABLE],
        ),
        report(
            |report| report.warnings = vec!["fine".into(), "\u{9b}31m".into()],
            &["warnings[1]", r#""\u{9b}31m""#, PRINTABLE],
        ),
        report(
            |report| report.failures = vec![failure("b", "\u{1b}]0;owned\u{7}")],
            &["failures[0].message", r#""\u{1b}]0;owned\u{7}""#, PRINTABLE],
        ),
        report(
            |report| report.failures = vec![failure("b\r", "")],
            &["failures[0].node", r#""b\r""#, PRINTABLE],
        ),
        invalid(As::Admin, Call::GetNode("nodes/\u{1b}[31ma"), &["name", r#""\u{1b}[31ma""#]),
    ]
}

const PRINTABLE: &str = "must have no control characters";

fn failure(node: &str, message: &str) -> v1::PeerFailure {
    v1::PeerFailure { node: node.into(), message: message.into(), since: None }
}

/// A report on a lease that is there.
fn report(change: impl FnOnce(&mut v1::ReportStatusRequest), says: &'static [&'static str]) -> Bad {
    let mut report = v1::ReportStatusRequest { network: "networks/default".into(), ..Default::default() };
    change(&mut report);
    invalid(As::A, Call::ReportStatus(report), says)
}
