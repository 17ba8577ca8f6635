//! STARTTLS as far as it goes in the clear; the rest is tested with real clients, end to end.

use std::sync::Arc;

use cairn_blockdev::export::nbd::proto::{opt, rep};
use cairn_blockdev::export::nbd::{NbdError, Tls};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::client::info;
use crate::world::World;

/// No certificate: TLS is begun and fails.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn config() -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Nothing));
    Arc::new(config)
}

fn requiring() -> World {
    let mut world = World::new(1);
    world.tls = Tls::Required(config());
    world
}

#[test]
fn nothing_is_told_before_tls_where_it_is_required() {
    let world = requiring();
    world.sim.block_on(async {
        let mut client = world.client().await;
        for (option, payload) in [
            (opt::LIST, vec![]),
            (opt::INFO, info("pg", &[])),
            (opt::INFO, info("nope", &[])),
            (opt::GO, info("pg", &[])),
            (opt::STRUCTURED_REPLY, vec![]),
            (4711, vec![]),
        ] {
            assert_eq!(client.answer(option, &payload).await, rep::ERR_TLS_REQD);
        }
        assert_eq!(client.answer(opt::STARTTLS, b"x").await, rep::ERR_INVALID);
        assert_eq!(client.answer(opt::ABORT, &[]).await, rep::ACK);
        assert!(client.rest().await.is_empty());
        world.end().await.unwrap();
    });
}

#[test]
fn an_export_chosen_the_old_way_without_tls_closes() {
    let world = requiring();
    world.sim.block_on(async {
        let mut client = world.client().await;
        client.option(opt::EXPORT_NAME, b"pg").await;
        assert!(client.rest().await.is_empty());
        assert!(matches!(world.end().await, Err(NbdError::TlsRequired)));
    });
}

#[test]
fn where_tls_is_only_offered_a_client_may_do_without() {
    let mut world = World::new(1);
    world.tls = Tls::Offered(config());
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        client.write(0, &[1; 512]).await;
    });
}

#[test]
fn what_is_sent_behind_starttls_in_the_clear_closes() {
    let world = requiring();
    world.sim.block_on(async {
        let mut client = world.client().await;
        let mut both = b"IHAVEOPT\0\0\0\x05\0\0\0\0".to_vec();
        both.extend(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
        client.send(&both).await;
        assert_eq!(client.option_reply(opt::STARTTLS).await.0, rep::ACK);
        assert!(client.rest().await.is_empty());
        assert!(matches!(world.end().await, Err(NbdError::BeforeTls)));
    });
}

#[test]
fn who_answers_starttls_with_silence_or_nonsense_is_dropped() {
    let world = requiring();
    world.sim.block_on(async {
        let mut client = world.client().await;
        assert_eq!(client.answer(opt::STARTTLS, &[]).await, rep::ACK);
        client.rest().await;
        let end = world.end().await;
        assert!(matches!(end, Err(NbdError::HandshakeTimeout(_))), "{end:?}");
        let mut client = world.client().await;
        assert_eq!(client.answer(opt::STARTTLS, &[]).await, rep::ACK);
        client.send(b"GET / HTTP/1.1\r\n\r\n").await;
        client.rest().await;
        assert!(matches!(world.end().await, Err(NbdError::Tls(_))));
    });
}
