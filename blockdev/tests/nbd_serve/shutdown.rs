//! The end of a server and of an export.

use cairn_blockdev::export::nbd::proto::cmd;
use cairn_blockdev::export::nbd::{NbdError, Stop};

use crate::world::World;

/// Sends `count` reads and waits until the disk has answered one of them.
async fn in_flight(world: &World, client: &mut crate::client::Client, count: u64) {
    for n in 0..count {
        client.request((cmd::READ, 0), n * 512, 512, &[]).await;
    }
    assert_eq!(client.reply().await.errno, 0);
    assert_eq!(world.export.count(), 1);
}

#[test]
fn a_restart_finishes_what_was_admitted_and_closes() {
    for seed in 0..20 {
        let (world, disk) = World::with_disk(seed, 1 << 20);
        world.sim.block_on(async {
            let mut client = world.transmitting().await;
            in_flight(&world, &mut client, 50).await;
            world.listener.stop(Stop::Restart);
            // What arrives now is left for the client to send again after its reconnection.
            let late = client.request((cmd::READ, 0), 0, 512, &[]).await;
            for _ in 1..50 {
                let reply = client.reply().await;
                assert_eq!(reply.errno, 0);
                assert_ne!(reply.cookie, late);
            }
            assert!(client.rest().await.is_empty());
            world.end().await.unwrap();
            world.listener.drained().await;
        });
        assert_eq!(disk.counts().0, 50);
    }
}

#[test]
fn an_unexport_finishes_what_was_admitted_and_refuses_the_rest() {
    let mut refused = 0;
    for seed in 0..20 {
        let (world, disk) = World::with_disk(seed, 1 << 20);
        world.sim.block_on(async {
            let mut client = world.transmitting().await;
            in_flight(&world, &mut client, 50).await;
            world.export.stop(Stop::Unexport);
            let data = [1; 512];
            let late = client.request((cmd::WRITE, 0), 0, 512, &data).await;
            let mut answered = 1;
            while answered < 50 {
                let reply = client.reply().await;
                if reply.cookie == late {
                    assert_eq!(reply.errno, 108);
                    refused += 1;
                } else {
                    assert_eq!(reply.errno, 0);
                    answered += 1;
                }
            }
            world.export.drained().await;
            world.end().await.unwrap();
            // The listener, and exports beside this one, go on.
            assert_eq!(world.listener.stopping(), None);
        });
        assert_eq!(disk.counts().1, 0);
    }
    assert!(refused > 0);
}

#[test]
fn idle_connections_and_handshakes_end_at_once() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut idle = world.transmitting().await;
        let mut negotiating = world.client().await;
        world.listener.stop(Stop::Restart);
        assert!(idle.rest().await.is_empty());
        assert!(negotiating.rest().await.is_empty());
        world.listener.drained().await;
        assert_eq!(world.export.count(), 0);
    });
}

#[test]
fn a_client_that_takes_no_replies_cannot_hold_a_shutdown_up() {
    let (world, _disk) = World::with_disk(1, 64 << 20);
    world.sim.block_on(async {
        let mut deaf = world.transmitting().await;
        for _ in 0..4 {
            deaf.request((cmd::READ, 0), 0, 1 << 20, &[]).await;
        }
        let second = std::time::Duration::from_secs(1);
        world.env.clock.sleep(second).await;
        world.listener.stop(Stop::Restart);
        world.listener.drained().await;
        assert!(matches!(world.end().await, Err(NbdError::Stalled(_))));
        drop(deaf);
    });
}

#[test]
fn a_vanished_client_leaves_no_request_on_the_device() {
    for seed in 0..20 {
        let (world, disk) = World::with_disk(seed, 64 << 20);
        world.sim.block_on(async {
            let mut client = world.transmitting().await;
            for n in 0..50 {
                let data = vec![1; 4096];
                client.request((cmd::WRITE, 0), n * 4096, 4096, &data).await;
            }
            drop(client);
            world.export.drained().await;
            let writes = disk.counts().1;
            let second = std::time::Duration::from_secs(1);
            world.env.clock.sleep(second).await;
            assert_eq!(disk.counts().1, writes, "a write came after the end");
        });
    }
}

#[test]
fn what_a_lost_connection_still_carries_lands_before_the_next_connections_requests() {
    for seed in 0..40 {
        let (world, disk) = World::with_disk(seed, 1 << 20);
        world.sim.block_on(async {
            let mut lost = world.transmitting().await;
            lost.request((cmd::WRITE, 0), 0, 4096, &[1; 4096]).await;
            // The request is in the server's hands, and then the connection is gone.
            let moment = std::time::Duration::from_nanos(1);
            world.env.clock.sleep(moment).await;
            drop(lost);
            world.env.clock.sleep(moment).await;
            let mut next = world.transmitting().await;
            next.write(0, &[2; 4096]).await;
            // Whatever was under way has had its time.
            world
                .env
                .clock
                .sleep(std::time::Duration::from_millis(10))
                .await;
        });
        assert!(
            disk.peek(0, 4096).iter().all(|&byte| byte == 2),
            "seed {seed}"
        );
    }
}
