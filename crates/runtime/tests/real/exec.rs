//! Further processes in containers, and their ports.

use std::time::Duration;

use cri::{Error, ExecRequest, RuntimeService, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, log, script, with_world};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn sleeper(world: &World) -> String {
    let sandbox = world.sandbox().await;
    world.start(&sandbox, script("app", "export X=1; exec sleep 1000")).await
}

#[test]
fn a_process_is_run_and_its_output_collected() {
    with_world("exec-sync", async |world| {
        let id = sleeper(world).await;
        let cmd = words(&["sh", "-c", "echo out; echo err >&2; cat; hostname; tr '\\0' ' ' < /proc/1/cmdline; exit 5"]);
        let answer = world.runtime.exec_sync(&id, cmd, Duration::ZERO).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "out\ntest-pod\nsleep 1000 ");
        assert_eq!((answer.stderr.as_slice(), answer.exit_code), (b"err\n".as_slice(), 5));

        let large = words(&["sh", "-c", "head -c 3000000 /dev/zero"]);
        assert_eq!(world.runtime.exec_sync(&id, large, Duration::ZERO).await.unwrap().stdout.len(), 3_000_000);

        let missing = world.runtime.exec_sync(&id, words(&["nope"]), Duration::ZERO).await.unwrap_err().to_string();
        let expected =
            r#"exec failed: unable to start container process: exec: "nope": executable file not found in $PATH"#;
        assert_eq!(missing, expected);
        assert_eq!(
            world.runtime.exec_sync("none", words(&["true"]), Duration::ZERO).await,
            Err(Error::no_container("none"))
        );
    });
}

#[test]
fn a_process_that_takes_too_long_is_killed() {
    with_world("exec-timeout", async |world| {
        let id = sleeper(world).await;
        let slow = words(&["sh", "-c", "echo $$ > /tmp/pid; exec sleep 1000"]);
        let late = world.runtime.exec_sync(&id, slow, Duration::from_millis(300)).await;
        assert!(matches!(late, Err(Error::DeadlineExceeded(_))), "{late:?}");
        let gone = words(&["sh", "-c", "while kill -0 $(cat /tmp/pid) 2>/dev/null; do :; done"]);
        assert_eq!(world.runtime.exec_sync(&id, gone, Duration::from_secs(30)).await.unwrap().exit_code, 0);
    });
}

#[test]
fn streams_lead_in_and_out() {
    with_world("exec-streams", async |world| {
        let id = sleeper(world).await;
        let cmd = words(&["sh", "-c", "while read line; do echo got $line; done; echo end >&2; exit 6"]);
        let mut session = world.runtime.exec(&id, ExecRequest { cmd, tty: false, stdin: true }).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"one\n").await.unwrap();
        let mut answer = [0; 8];
        session.stdout.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"got one\n");
        drop(stdin);
        let mut rest = String::new();
        session.stderr.unwrap().read_to_string(&mut rest).await.unwrap();
        assert_eq!((rest.as_str(), session.exit.await), ("end\n", Ok(6)));
    });
}

#[test]
fn a_terminal_has_a_size_and_an_end() {
    with_world("exec-tty", async |world| {
        let id = sleeper(world).await;
        let cmd = words(&[
            "sh",
            "-c",
            "tty; read go; until stty size 2>/dev/null | grep -q 33; do :; done; stty size; exit 2",
        ]);
        let mut session = world.runtime.exec(&id, ExecRequest { cmd, tty: true, stdin: true }).await.unwrap();
        assert!(session.stderr.is_none());
        let mut first = [0; 12];
        session.stdout.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"/dev/pts/0\r\n");
        session.resize.send(TerminalSize { width: 101, height: 33 }).unwrap();
        // The size is set by a task of its own: the process looks until it has it.
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"go\n").await.unwrap();
        let mut rest = String::new();
        session.stdout.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "go\r\n33 101\r\n");
        assert_eq!(session.exit.await, Ok(2));
    });
}

#[test]
fn dropping_a_session_kills_its_process() {
    with_world("exec-drop", async |world| {
        let id = sleeper(world).await;
        let cmd = words(&["sh", "-c", "trap '' HUP PIPE; echo $$; exec sleep 1000"]);
        let mut session = world.runtime.exec(&id, ExecRequest { cmd, tty: false, stdin: false }).await.unwrap();
        let mut pid = String::new();
        while !pid.ends_with('\n') {
            pid.push(char::from(session.stdout.read_u8().await.unwrap()));
        }
        drop(session);
        let gone = words(&["sh", "-c", &format!("while kill -0 {} 2>/dev/null; do :; done", pid.trim())]);
        assert_eq!(world.runtime.exec_sync(&id, gone, Duration::from_secs(30)).await.unwrap().exit_code, 0);
    });
}

#[test]
fn further_processes_are_the_containers_user_with_its_limits() {
    with_world("exec-user", async |world| {
        let sandbox = world.sandbox().await;
        let mut config = script("app", "exec sleep 1000");
        config.linux.security_context.run_as.username = "web".into();
        config.linux.security_context.no_new_privs = true;
        config.linux.security_context.seccomp = cri::SecurityProfile::RuntimeDefault;
        let id = world.start(&sandbox, config).await;
        let cmd = words(&[
            "sh",
            "-c",
            "id; echo $HOME; grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; cat /proc/self/cgroup /proc/1/cgroup | sort -u | wc -l; cat /proc/1/cgroup | wc -l",
        ]);
        let answer = world.runtime.exec_sync(&id, cmd, Duration::ZERO).await.unwrap();
        let text = String::from_utf8(answer.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "uid=33(web) gid=34(www) groups=34(www),50(extra)");
        assert_eq!(lines[1..5], ["/home/web", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]);
        assert_eq!(lines[5], lines[6], "both are in the same control groups");
        let user = world.status(&id).await.linux.user.unwrap();
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (33, 34, vec![34, 50]));
    });
}

#[test]
fn a_port_is_reached_from_outside_the_pods_network() {
    with_world("forward", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, script("server", "echo up; exec nc -l -p 8080 -e cat")).await;
        while log(&world.status(&id).await).is_empty() {
            tokio::task::yield_now().await;
        }
        let mut stream = loop {
            match world.runtime.port_forward(&sandbox, 8080).await {
                Ok(stream) => break stream,
                // It said that it is up just before it listens.
                Err(Error::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        assert!(matches!(world.runtime.port_forward(&sandbox, 9).await, Err(Error::Unavailable(_))));
    });
}
