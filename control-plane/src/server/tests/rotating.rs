//! From one CA to the next, while nodes are connected, and with some that were away.

use std::time::Duration;

use loden_proto::v1::identity_service_client::IdentityServiceClient;
use loden_proto::v1::{
    Authority, AuthorityPhase, CreateJoinTokenRequest, GetAuthorityRequest, RotateAuthorityRequest,
    RotationStep,
};
use loden_transport::{Bundle, ConnectOptions, Credentials, KeyRequest, connect};
use tonic::{Code, Status};

use super::fixture::{Fixture, LONG, start};
use super::joining::{address, for_node, inside, join, renew, token};
use crate::identity::IssuedRole;

async fn rotate(fixture: &Fixture, step: RotationStep, force: bool) -> Result<Authority, Status> {
    let request = RotateAuthorityRequest { step: step.into(), force };
    // The cluster's own admin goes along with every step.
    let admin = Bundle::read(&fixture.state.path().join("pki/admin")).unwrap();
    let channel = inside(fixture, &admin).await;
    IdentityServiceClient::new(channel).rotate_authority(request).await.map(tonic::Response::into_inner)
}

async fn joined(fixture: &Fixture, node: &str) -> Bundle {
    let made = token(fixture, for_node(node)).await;
    join(fixture, &made.token, "", &KeyRequest::new().unwrap()).await.unwrap()
}

/// Waits until the server shows a certificate of its present CA.
async fn until_shown(fixture: &Fixture, trusting: &Bundle) {
    let deadline = tokio::time::Instant::now() + LONG;
    let credentials = Credentials::fixed(trusting).unwrap();
    while let Err(error) = connect(&[address(fixture)], &credentials, &ConnectOptions::default()).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_fleet_goes_over_to_another_ca_and_nobody_is_shut_out_who_is_not_away_for_long() {
    let fixture = start().await;
    let first = joined(&fixture, "a").await;
    let away = joined(&fixture, "away").await;
    let admin = fixture.bundle(IssuedRole::Admin, "of-before");
    let early =
        token(&fixture, CreateJoinTokenRequest { uses: 2, ..CreateJoinTokenRequest::default() }).await;
    let early_wrong = rotate(&fixture, RotationStep::Issue, false).await.unwrap_err();
    assert_eq!(early_wrong.code(), Code::FailedPrecondition, "{early_wrong}");

    let channel = inside(&fixture, &first).await;
    let prepared = rotate(&fixture, RotationStep::Prepare, false).await.unwrap();
    assert_eq!((prepared.phase(), prepared.roots.len()), (AuthorityPhase::Prepared, 2));
    assert_eq!(prepared.nodes_behind, ["nodes/a"]);
    let behind = rotate(&fixture, RotationStep::Issue, false).await.unwrap_err();
    assert!(behind.message().starts_with("nodes/a and 0 other nodes have not got"), "{behind}");
    let second = renew(channel.clone()).await.unwrap();
    assert_ne!(second.ca_pem(), first.ca_pem());
    drop(channel);
    let channel = inside(&fixture, &second).await;
    // The connection with the old one may still be closing.
    let deadline = tokio::time::Instant::now() + LONG;
    let issuing = loop {
        match rotate(&fixture, RotationStep::Issue, false).await {
            Ok(issuing) => break issuing,
            Err(status) => assert!(tokio::time::Instant::now() < deadline, "{status}"),
        }
    };
    assert_eq!(issuing.phase(), AuthorityPhase::Issuing);
    assert_eq!(issuing.roots[0], prepared.roots[1], "the next one issues");

    // Who knows the CA of before only believes what leads to it.
    until_shown(&fixture, &away).await;
    join(&fixture, &early.token, "late", &KeyRequest::new().unwrap()).await.expect("a token of before");
    let third = renew(channel.clone()).await.unwrap();
    let back = renew(inside(&fixture, &away).await).await.unwrap();
    assert_eq!(back.ca_pem(), third.ca_pem());
    drop(channel);
    let _channel = inside(&fixture, &third).await;

    let too_early = loop {
        let status = rotate(&fixture, RotationStep::Retire, false).await.unwrap_err();
        if !status.message().contains("have not got another") {
            break status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status}");
    };
    assert!(too_early.message().contains("may be good until"), "{too_early}");
    let old = inside(&fixture, &first).await;
    let mut admin = IdentityServiceClient::new(inside(&fixture, &admin).await);
    admin.get_authority(GetAuthorityRequest {}).await.expect("its CA is trusted still");
    let retired = rotate(&fixture, RotationStep::Retire, true).await.unwrap();
    assert_eq!((retired.phase(), retired.roots.len()), (AuthorityPhase::Steady, 1));
    until_shown(&fixture, &third).await;
    // An open connection is no way to a certificate of the new CA.
    renew(old).await.expect_err("its CA is trusted no more");
    admin.get_authority(GetAuthorityRequest {}).await.expect_err("whoever it is");
    let credentials = Credentials::fixed(&first).unwrap();
    let refused = loop {
        match connect(&[address(&fixture)], &credentials, &ConnectOptions::default()).await {
            Err(refused) => break refused.to_string(),
            Ok(_) => assert!(tokio::time::Instant::now() < deadline, "its CA is trusted still"),
        }
    };
    assert!(refused.contains("unknown issuer"), "{refused}");
    let mut reader = IdentityServiceClient::new(fixture.channel(IssuedRole::Reader, "eve").await);
    let shown = reader.get_authority(GetAuthorityRequest {}).await.unwrap().into_inner();
    assert_eq!((shown.phase(), shown.retire_time), (AuthorityPhase::Steady, None));
}
