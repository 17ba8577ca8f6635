//! Clients that break the protocol, on purpose or by dying.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use cairn_blockdev::export::nbd::NbdError;
use cairn_blockdev::export::nbd::framing::Framing;
use cairn_blockdev::export::nbd::limits::CONNECTIONS_MAX;
use cairn_blockdev::export::nbd::proto::{cmd, cmd_flag};
use cairn_blockdev::export::nbd::request::Request;
use cairn_blockdev::units::usize_of;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::client::Client;
use crate::world::{SIZE, World};

/// A stream whose end is never taken, as TLS's good-bye isn't by a client that reads nothing more.
struct Endless(DuplexStream);

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buf)
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[test]
fn a_client_that_does_not_take_the_end_of_the_stream_is_let_go() {
    let world = World::new(1);
    let ended = async {
        let mut client = Client::greeted(world.stream_by(Endless)).await;
        client.agree_on_everything("pg").await;
        client.go("pg").await;
        client.write(0, &[1; 512]).await;
        client.request((cmd::DISC, 0), 0, 0, &[]).await;
        world.end().await.unwrap();
    };
    assert!(world.sim.run_until(ended, 1_000_000).is_some(), "it hangs");
    assert_eq!((world.export.count(), world.listener.count()), (0, 0));
}

#[test]
fn half_a_request_then_close_ends_the_connection() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        client.send(&[0x25, 0x60, 0x95, 0x13, 0, 0]).await;
        drop(client);
        assert!(matches!(world.end().await, Err(NbdError::Truncated)));
    });
}

#[test]
fn half_a_payload_then_close_writes_nothing() {
    let (world, disk) = World::with_disk(1, 1 << 20);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        client.request((cmd::WRITE, 0), 0, 8192, &[1; 4096]).await;
        drop(client);
        assert!(matches!(world.end().await, Err(NbdError::Truncated)));
    });
    assert_eq!(disk.counts().1, 0);
}

#[test]
fn a_wrong_magic_closes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        client.send(&[0xAA; 28]).await;
        assert!(client.rest().await.is_empty());
        let end = world.end().await;
        assert!(matches!(end, Err(NbdError::RequestMagic(0xAAAA_AAAA))));
    });
}

#[test]
fn an_oversize_write_is_skipped_and_an_absurd_one_closes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        let len = (32 << 20) + 512;
        let data = vec![1; usize_of(len)];
        let reply = client.call((cmd::WRITE, 0), 0, len, &data).await;
        assert_eq!(reply.errno, 22);
        assert_eq!(client.read(0, 512).await, [0; 512]);
        client
            .request((cmd::WRITE, 0), 0, u32::MAX.into(), &[1; 512])
            .await;
        assert!(client.rest().await.is_empty());
        assert!(matches!(
            world.end().await,
            Err(NbdError::PayloadTooLarge { len }) if len == u64::from(u32::MAX)
        ));
    });
}

#[test]
fn bad_requests_are_refused_each_by_its_error() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        let cases = [
            ((cmd::READ, 0), 0, u64::from(u32::MAX), 22),
            ((cmd::READ, cmd_flag::DF), 0, u32::MAX.into(), 75),
            ((cmd::READ, 0), SIZE, 512, 22),
            ((cmd::READ, 0), u64::MAX - 511, 512, 22),
            ((cmd::READ, 0), 1, 512, 22),
            ((cmd::READ, 0), 0, 100, 22),
            ((cmd::READ, 1 << 15), 0, 512, 22),
            ((cmd::WRITE_ZEROES, 0), SIZE - 512, 1024, 28),
            ((cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO), 0, 512, 95),
            ((cmd::WRITE_ZEROES, cmd_flag::PAYLOAD_LEN), 0, 4096, 22),
            ((cmd::TRIM, 0), SIZE - 512, 1024, 22),
            ((cmd::BLOCK_STATUS, 0), SIZE - 512, 1024, 22),
            ((cmd::FLUSH, 0), 512, 0, 22),
            ((4711, 0), 0, 512, 22),
        ];
        for (command, offset, len, errno) in cases {
            let answer = client.errno(command, offset, len).await;
            assert_eq!(answer, errno, "{command:?} at {offset}, {len} bytes");
        }
        let reply = client
            .call((cmd::WRITE, 0), SIZE - 512, 1024, &[1; 1024])
            .await;
        assert_eq!(reply.errno, 28);
        // And none of it hurt the connection.
        client.write(0, &[1; 512]).await;
    });
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        client.agree_on_everything("ro").await;
        client.go("ro").await;
        let reply = client.call((cmd::WRITE, 0), 0, 512, &[1; 512]).await;
        assert_eq!(reply.errno, 1);
        assert_eq!(client.errno((cmd::TRIM, 0), 0, 512).await, 1);
        assert_eq!(client.errno((cmd::WRITE_ZEROES, 0), 0, 512).await, 1);
        assert_eq!(client.read(0, 512).await, [0; 512]);
    });
}

#[test]
fn who_stalls_with_memory_that_others_wait_for_is_closed() {
    let (world, _disk) = World::with_disk(1, 1 << 20);
    world.sim.block_on(async {
        // One holds all memory with half a payload.
        let mut stalled = world.transmitting().await;
        stalled
            .request((cmd::WRITE, 0), 0, 1 << 20, &[1; 512])
            .await;
        let mut other = world.transmitting().await;
        assert_eq!(other.read(0, 4096).await, [0; 4096]);
        assert!(matches!(world.end().await, Err(NbdError::Stalled(_))));

        // One never takes its replies, which are more than the stream holds.
        let mut deaf = world.transmitting().await;
        for _ in 0..4 {
            deaf.request((cmd::READ, 0), 0, 1 << 20, &[]).await;
        }
        assert_eq!(other.read(0, 4096).await, [0; 4096]);
        assert!(matches!(world.end().await, Err(NbdError::Stalled(_))));
    });
}

#[test]
fn who_is_slow_alone_is_left_in_peace() {
    let (world, _disk) = World::with_disk(1, 1 << 20);
    world.sim.block_on(async {
        let mut slow = world.transmitting().await;
        slow.request((cmd::WRITE, 0), 0, 1024, &[1; 512]).await;
        let hour = std::time::Duration::from_hours(1);
        world.env.clock.sleep(hour).await;
        slow.send(&[1; 512]).await;
        assert_eq!(slow.reply().await.errno, 0);
    });
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let (world, _disk) = World::with_disk(1, 8 << 20);
    world.sim.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..1000 {
            clients.push(world.transmitting().await);
        }
        assert_eq!(world.export.count(), 1000);
        for (n, client) in (0u64..).zip(&mut clients) {
            let data = [u8::try_from(n % 251).unwrap(); 4096];
            client.request((cmd::WRITE, 0), n * 4096, 4096, &data).await;
        }
        for client in &mut clients {
            assert_eq!(client.reply().await.errno, 0);
        }
        for (n, client) in (0u64..).zip(&mut clients) {
            assert_eq!(
                client.read(n * 4096, 4096).await,
                [u8::try_from(n % 251).unwrap(); 4096]
            );
        }
        drop(clients);
        world.export.drained().await;
    });
}

#[test]
fn one_connection_too_many_is_closed_and_the_others_stay() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut first = world.transmitting().await;
        let mut idle = Vec::new();
        while world.listener.count() < CONNECTIONS_MAX {
            idle.push(world.client().await);
        }
        assert!(world.stream().read_u8().await.is_err());
        assert!(matches!(
            world.end().await,
            Err(NbdError::TooManyConnections(CONNECTIONS_MAX))
        ));
        first.write(0, &[1; 512]).await;
        idle.pop();
        world.end().await.unwrap();
        world.transmitting().await.write(0, &[1; 512]).await;
    });
}

/// Requests near what is right, with payloads of any length, between bytes of anything.
fn talk(framing: Framing) -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let len = prop_oneof![
        6 => (0u64..20).prop_map(|n| n * 512),
        6 => 0u64..1 << 32,
        3 => (0u64..6).prop_map(|n| n * 4),
        1 => any::<u64>(),
    ];
    let offset = prop_oneof![(0u64..1 << 18).prop_map(|n| n * 512), any::<u64>()];
    let request = (0u16..10, 0u16..64, any::<u64>(), offset, len).prop_map(
        move |(kind, flags, cookie, offset, len)| {
            let request = Request {
                flags,
                kind,
                cookie,
                offset,
                len,
            };
            let mut bytes = match framing {
                Framing::Extended => request.encode_extended().to_vec(),
                _ => request.encode().to_vec(),
            };
            let there = request.payload_len(framing).min(20_000);
            let fill = u8::from(kind != cmd::BLOCK_STATUS);
            bytes.resize(bytes.len() + usize_of(there), fill);
            bytes
        },
    );
    prop::collection::vec(prop_oneof![20 => request, 1 => bytes], 0..40)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn whatever_is_sent_the_connection_comes_to_an_end(
        compact in talk(Framing::Structured),
        extended in talk(Framing::Extended),
        is_extended: bool,
        seed: u64,
    ) {
        let talk = if is_extended { extended } else { compact };
        let (world, _disk) = World::with_disk(seed, 1 << 20);
        world.sim.block_on(async {
            let mut client = world.client().await;
            client.agree_on_everything("pg").await;
            if is_extended {
                client.agree_on_extended_headers().await;
            }
            client.go("pg").await;
            let (mut receive, mut send) = tokio::io::split(client.stream);
            world.env.spawn.spawn(Box::pin(async move {
                let _ = send.write_all(&talk).await;
                let _ = send.shutdown().await;
            }));
            tokio::io::copy(&mut receive, &mut tokio::io::sink()).await.unwrap();
            let _ = world.end().await;
            assert_eq!((world.listener.count(), world.export.count()), (0, 0));
        });
    }
}
