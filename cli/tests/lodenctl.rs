//! The program itself against a server of one network: what is printed where,
//! and with which exit code it ends.

#[cfg(test)]
mod program {
    use std::path::Path;
    use std::process::Output;

    use loden_proto::reason::{self, Reason};
    use loden_proto::v1;
    use loden_proto::v1::network_service_server::{NetworkService, NetworkServiceServer};
    use loden_transport::{Bundle, ServerTls};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    use tempfile::TempDir;
    use tokio::net::TcpListener;
    use tokio::process::Command;
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::{Code, Request, Response, Status};

    /// Has the networks `a` and `b`, one a page, and takes no new ones.
    struct Networks;

    fn network(name: &str) -> v1::Network {
        v1::Network { name: name.to_owned(), vni: Some(7), ..Default::default() }
    }

    #[tonic::async_trait]
    impl NetworkService for Networks {
        async fn create_network(
            &self,
            request: Request<v1::CreateNetworkRequest>,
        ) -> Result<Response<v1::Network>, Status> {
            let network = request.into_inner().network.unwrap();
            let message = format!("network.vni: \"{}\" must be from 1 to 16777215", network.vni.unwrap());
            Err(reason::status(Code::InvalidArgument, Reason::InvalidField, message))
        }

        async fn get_network(
            &self,
            request: Request<v1::GetNetworkRequest>,
        ) -> Result<Response<v1::Network>, Status> {
            match request.into_inner().name.as_str() {
                name @ ("networks/a" | "networks/b") => Ok(Response::new(network(name))),
                name => {
                    let message = format!("{name} does not exist");
                    Err(reason::status(Code::NotFound, Reason::NotFound, message))
                }
            }
        }

        async fn list_networks(
            &self,
            request: Request<v1::ListNetworksRequest>,
        ) -> Result<Response<v1::ListNetworksResponse>, Status> {
            let (name, next_page_token) = match request.into_inner().page_token.as_str() {
                "" => ("networks/a", "second".to_owned()),
                _ => ("networks/b", String::new()),
            };
            let networks = vec![network(name)];
            Ok(Response::new(v1::ListNetworksResponse { networks, next_page_token, revision: 1 }))
        }

        async fn update_network(
            &self,
            _: Request<v1::UpdateNetworkRequest>,
        ) -> Result<Response<v1::Network>, Status> {
            Err(Status::unimplemented("not in this test"))
        }

        async fn delete_network(&self, _: Request<v1::DeleteNetworkRequest>) -> Result<Response<()>, Status> {
            Ok(Response::new(()))
        }
    }

    /// A running server, and an admin's identity for it.
    struct Cluster {
        server: String,
        directory: TempDir,
    }

    impl Cluster {
        async fn start() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let issue = |role: &str| {
                let mut params = CertificateParams::new(vec!["control-plane.demo.loden".to_owned()]).unwrap();
                let uri = format!("spiffe://demo/{role}").try_into().unwrap();
                params.subject_alt_names.push(SanType::URI(uri));
                let key = KeyPair::generate().unwrap();
                let certificate = params.signed_by(&key, &authority).unwrap();
                Bundle::from_pem(authority.pem(), certificate.pem(), key.serialize_pem()).unwrap()
            };
            let directory = tempfile::tempdir().unwrap();
            issue("admin/test").write(&directory.path().join("admin")).unwrap();

            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = listener.local_addr().unwrap().to_string();
            let acceptor =
                TlsAcceptor::from(ServerTls::new(&issue("control-plane/test"), None).unwrap().usual());
            let (accepted, connections) = mpsc::channel(8);
            tokio::spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let Ok(stream) = acceptor.accept(socket).await else { continue };
                    accepted.send(Ok::<_, std::io::Error>(stream)).await.unwrap();
                }
            });
            let serving = tonic::transport::Server::builder()
                .add_service(NetworkServiceServer::new(Networks))
                .serve_with_incoming(ReceiverStream::new(connections));
            tokio::spawn(serving);
            Self { server, directory }
        }

        async fn lodenctl(&self, line: &str) -> Output {
            run(&self.server, &self.directory.path().join("admin"), line).await
        }
    }

    async fn run(server: &str, identity: &Path, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lodenctl"))
            .args(line.split(' '))
            .env_clear()
            .env("LODEN_SERVER", server)
            .env("LODEN_IDENTITY", identity)
            .output()
            .await
            .unwrap()
    }

    fn code(output: &Output) -> i32 {
        output.status.code().unwrap()
    }

    fn stdout(output: &Output) -> String {
        String::from_utf8(output.stdout.clone()).unwrap()
    }

    fn stderr(output: &Output) -> String {
        String::from_utf8(output.stderr.clone()).unwrap()
    }

    #[tokio::test]
    async fn every_page_of_a_list_is_in_one_array() {
        let cluster = Cluster::start().await;
        let output = cluster.lodenctl("network list -o json").await;
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
        let networks: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let names: Vec<_> = networks.as_array().unwrap().iter().map(|network| &network["name"]).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[tokio::test]
    async fn what_was_done_is_said() {
        let cluster = Cluster::start().await;
        let output = cluster.lodenctl("network delete a").await;
        assert_eq!((code(&output), stdout(&output).as_str()), (0, "networks/a deleted\n"));
        let output = cluster.lodenctl("network delete a -o json").await;
        assert_eq!(stdout(&output), "{\"deleted\":\"networks/a\"}\n");
    }

    #[tokio::test]
    async fn failures_are_one_line_and_one_code_each() {
        let cluster = Cluster::start().await;
        let cases = [
            ("network get c", 3, "lodenctl: networks/c does not exist\n"),
            (
                "network create c --pool 10.0.0.0/8 --vni 0",
                1,
                "lodenctl: network.vni: \"0\" must be from 1 to 16777215\n",
            ),
        ];
        for (line, expected, message) in cases {
            let output = cluster.lodenctl(line).await;
            assert_eq!((code(&output), stderr(&output).as_str()), (expected, message), "{line}");
            assert_eq!(stdout(&output), "", "{line}");
        }
        assert_eq!(code(&cluster.lodenctl("network get").await), 2);
    }

    #[tokio::test]
    async fn an_unreachable_server_and_an_unreadable_identity_are_told_apart() {
        let cluster = Cluster::start().await;
        let admin = cluster.directory.path().join("admin");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = free.local_addr().unwrap().to_string();
        drop(free);
        let output = run(&nobody, &admin, "network list").await;
        assert_eq!(code(&output), 4);
        assert!(stderr(&output).contains("Connection refused"), "{}", stderr(&output));

        let output = run(&cluster.server, &cluster.directory.path().join("nobody"), "network list").await;
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains("nobody/ca.crt: No such file"), "{}", stderr(&output));
    }

    #[tokio::test]
    async fn a_refused_certificate_is_named_as_the_reason() {
        let (cluster, other) = (Cluster::start().await, Cluster::start().await);
        let identity = cluster.directory.path().join("mixed");
        let (ours, theirs) = (
            Bundle::read(&cluster.directory.path().join("admin")).unwrap(),
            Bundle::read(&other.directory.path().join("admin")).unwrap(),
        );
        let pem = |text: &str| text.to_owned();
        let mixed =
            Bundle::from_pem(pem(ours.ca_pem()), pem(theirs.certificate_pem()), pem(theirs.key_pem()));
        mixed.unwrap().write(&identity).unwrap();
        let output = run(&cluster.server, &identity, "network list").await;
        assert_eq!(code(&output), 4);
        assert!(
            stderr(&output).contains("the server refused our certificate: unknown issuer"),
            "{}",
            stderr(&output)
        );
    }
}
