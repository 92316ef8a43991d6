//! Certificates: the server's, and the client's where it is asked for one.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use snakehouse_base::{Coded, Secret};
use snakehouse_grpc::{Channel, ClientTls, Dial, ServerTls};
use snakehouse_pool::{Args, CallOptions};

use crate::support::{BOUND, Rig, TOKEN, WORKER_TOKEN, config, dial, request, run};

/// Vouches for others.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this name, and its key.
    fn vouch(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

fn trust(authority: &Authority, own: Option<&(String, String)>) -> ClientTls {
    let own = own.map(|(certificate, key)| (certificate.as_bytes(), key.as_bytes()));
    ClientTls::from_pem(authority.pem().as_bytes(), own).unwrap()
}

#[test]
fn both_doors_work_over_tls_and_only_for_who_trusts_the_server() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (authority, another) = (Authority::new(), Authority::new());
        let (certificate, key) = authority.vouch("127.0.0.2");
        let tls = ServerTls::from_pem(certificate.as_bytes(), key.as_bytes(), None).unwrap();
        let mut config = config();
        config.tls = Some(tls);
        let (server, _scope) = rig.serve(config, Some(&pool), Some(&workers)).await;
        let url = format!("https://{}", server.local_addr());
        let dial_with = |tls| Dial {
            tls: Some(tls),
            token: Some(Secret::new(TOKEN)),
            ..Dial::new(url.clone())
        };
        let token = Some(Secret::new(WORKER_TOKEN));
        let mut agent = rig.agent(Dial { token, ..dial_with(trust(&authority, None)) });
        let pid = agent.next_pid().await;
        let found = pool.call("pid", Args::none(), CallOptions::within(BOUND)).await.unwrap();
        assert_eq!(found.as_i64(), Some(pid.into()));
        let mut client = rig.client(&dial_with(trust(&authority, None))).await;
        client.call(request("pid", None)).await.unwrap();

        let error =
            Channel::connect(rig.scope(), &dial_with(trust(&another, None))).await.unwrap_err();
        assert_eq!(error.code(), "not_reached");
        assert!(error.to_string().contains("certificate"), "{error}");
        // A client without TLS is not understood, and not served.
        let plain = dial(server.local_addr());
        if let Ok((channel, _)) = Channel::connect(rig.scope(), &plain).await {
            let mut client = snakehouse_grpc::proto::pool_client::PoolClient::new(channel);
            client.call(request("pid", None)).await.unwrap_err();
        }
        rig.end().await;
    });
}

#[test]
fn a_server_may_ask_for_a_certificate_as_well() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (servers, clients) = (Authority::new(), Authority::new());
        let (certificate, key) = servers.vouch("127.0.0.2");
        let (certificate, key, ca) = (certificate.as_bytes(), key.as_bytes(), clients.pem());
        let mut config = config();
        config.tls = Some(ServerTls::from_pem(certificate, key, Some(ca.as_bytes())).unwrap());
        let (server, _scope) = rig.serve(config, Some(&pool), None).await;
        let dial_with = |own: Option<&(String, String)>| Dial {
            tls: Some(trust(&servers, own)),
            token: Some(Secret::new(TOKEN)),
            ..Dial::new(format!("https://{}", server.local_addr()))
        };
        let known = clients.vouch("a-client");
        let mut client = rig.client(&dial_with(Some(&known))).await;
        client.call(request("pid", None)).await.unwrap();
        let stranger = servers.vouch("a-stranger");
        for own in [None, Some(&stranger)] {
            // With TLS 1.3 a client learns of it with its first request.
            if let Ok((channel, _)) = Channel::connect(rig.scope(), &dial_with(own)).await {
                let mut client = snakehouse_grpc::proto::pool_client::PoolClient::new(channel);
                client.call(request("pid", None)).await.unwrap_err();
            }
        }
        rig.end().await;
    });
}
