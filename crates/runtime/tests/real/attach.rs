//! Joining the streams of a container's first process.

use cri::{AttachRequest, ContainerConfig, Error, ExecSession, RuntimeService, Terminal, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, log, processes_of, script, with_world};

fn interactive(text: &str, terminal: Terminal) -> ContainerConfig {
    ContainerConfig { terminal, ..script("app", text) }
}

async fn attach(world: &World, id: &str, stdin: bool, tty: bool) -> ExecSession {
    let request = AttachRequest { stdin, stdout: true, stderr: !tty, tty };
    world.runtime.attach(id, request).await.unwrap()
}

/// Reads until `wanted` was read.
async fn read_until(session: &mut ExecSession, wanted: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(wanted) {
        text.push(session.stdout.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn all_who_are_attached_see_what_the_log_sees() {
    with_world("attach-many", async |world| {
        let sandbox = world.sandbox().await;
        let echo = "while read line; do echo got $line; echo err $line >&2; done; exit 7";
        let open = Terminal { stdin: true, ..Terminal::default() };
        let id = world.start(&sandbox, interactive(echo, open)).await;
        let (mut one, mut two) = (attach(world, &id, true, false).await, attach(world, &id, true, false).await);
        one.stdin.as_mut().unwrap().write_all(b"a\n").await.unwrap();
        for session in [&mut one, &mut two] {
            assert_eq!(read_until(session, "\n").await, "got a\n");
        }
        // Input stays open when one who wrote leaves, and the container does not care.
        drop(one);
        two.stdin.as_mut().unwrap().write_all(b"b\n").await.unwrap();
        assert_eq!(read_until(&mut two, "\n").await, "got b\n");
        let mut errors = String::new();
        world.runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
        two.stderr.as_mut().unwrap().read_to_string(&mut errors).await.unwrap();
        assert_eq!((errors.as_str(), two.exit.await), ("err a\nerr b\n", Ok(0)));
        let lines = log(&world.status(&id).await);
        let has = |stream: &str, text: &str| lines.iter().any(|line| line.0 == stream && line.2 == text);
        assert!(has("stdout", "got a") && has("stderr", "err b"), "{lines:?}");
        let late = world.runtime.attach(&id, AttachRequest { stdout: true, ..AttachRequest::default() }).await;
        assert!(matches!(late, Err(Error::FailedPrecondition(_))), "{:?}", late.err());
    });
}

#[test]
fn input_that_is_for_the_first_one_only_ends_with_them() {
    with_world("attach-once", async |world| {
        let sandbox = world.sandbox().await;
        let once = Terminal { stdin: true, stdin_once: true, tty: false };
        let id = world.start(&sandbox, interactive("cat; exit 3", once)).await;
        let mut session = attach(world, &id, true, false).await;
        assert!(attach(world, &id, true, false).await.stdin.is_none(), "it is taken");
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"all of it").await.unwrap();
        drop(stdin);
        let mut text = String::new();
        session.stdout.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "all of it");
        session.exit.await.unwrap();
        assert_eq!(world.status(&id).await.exit.exit_code, 3);
    });
}

#[test]
fn who_is_attached_and_slow_loses_nothing() {
    with_world("attach-slow", async |world| {
        let sandbox = world.sandbox().await;
        let once = Terminal { stdin: true, stdin_once: true, tty: false };
        let id = world.start(&sandbox, interactive("cat >/dev/null; head -c 3000000 /dev/zero", once)).await;
        let mut session = attach(world, &id, true, false).await;
        drop(session.stdin.take());
        // The pipe is full long before it is read: the container waits.
        let mut content = Vec::new();
        let mut chunk = vec![0; 1000];
        loop {
            tokio::task::yield_now().await;
            match session.stdout.read(&mut chunk).await.unwrap() {
                0 => break,
                length => content.extend_from_slice(&chunk[..length]),
            }
        }
        assert_eq!(content.len(), 3_000_000);
    });
}

#[test]
fn who_leaves_without_reading_does_not_hold_the_container_up() {
    with_world("attach-leave", async |world| {
        let sandbox = world.sandbox().await;
        let open = Terminal { stdin: true, ..Terminal::default() };
        let text = "read line; head -c 300000 /dev/zero; exit 5";
        let id = world.start(&sandbox, interactive(text, open)).await;
        let mut session = attach(world, &id, true, false).await;
        session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
        let mut first = [0];
        session.stdout.read_exact(&mut first).await.unwrap();
        let ExecSession { exit, stdin, stdout, stderr, .. } = session;
        drop((stdin, stdout, stderr));
        exit.await.unwrap();
        assert_eq!(world.status(&id).await.exit.exit_code, 5);
    });
}

#[test]
fn who_leaves_a_container_that_says_nothing_is_forgotten_at_once() {
    with_world("attach-quiet", async |world| {
        let sandbox = world.sandbox().await;
        let open = Terminal { stdin: true, ..Terminal::default() };
        let id = world.start(&sandbox, interactive("read line; echo $line; read line", open)).await;
        let [pid] = processes_of(&world.folder.to_string_lossy())[..] else { panic!("one supervisor") };
        let files = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let before = files();
        let mut session = attach(world, &id, true, false).await;
        session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
        assert_eq!(read_until(&mut session, "\n").await, "go\n");
        drop(session);
        // Kept, a pipe that nobody reads would wake the supervisor for ever.
        while files() > before {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_terminal_is_attached_to_and_resized() {
    with_world("attach-terminal", async |world| {
        let sandbox = world.sandbox().await;
        let terminal = Terminal { stdin: true, stdin_once: false, tty: true };
        let id = world
            .start(&sandbox, interactive("trap 'stty size' WINCH; echo set; while true; do sleep 1; done", terminal))
            .await;
        while log(&world.status(&id).await).is_empty() {
            tokio::task::yield_now().await;
        }
        let mut session = attach(world, &id, true, true).await;
        assert!(session.stderr.is_none());
        session.resize.send_replace(TerminalSize { width: 99, height: 33 });
        assert!(read_until(&mut session, "33 99\r\n").await.ends_with("33 99\r\n"));
        drop(session);
        // Its terminal stays; nobody hung up.
        let mut again = attach(world, &id, true, true).await;
        again.resize.send_replace(TerminalSize { width: 50, height: 20 });
        assert!(read_until(&mut again, "20 50\r\n").await.ends_with("20 50\r\n"));
    });
}
