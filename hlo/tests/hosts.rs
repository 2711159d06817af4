//! Processes that find each other, talk through the coordinator, and notice when one is gone.

use hlo::hosts::{Group, HostsError, Lost, NOTICED, Place};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An address of this machine that nobody listens at.
fn address() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

fn place(coordinator: &str, process: usize, processes: usize) -> Place {
    Place { coordinator: coordinator.into(), process, processes }
}

/// All processes of a group, on threads of this one.
fn together<const N: usize>(act: impl Fn(Group) + Sync) {
    let at = address();
    std::thread::scope(|scope| {
        for process in 0..N {
            let (at, act) = (&at, &act);
            scope
                .spawn(move || act(Group::join(&place(at, process, N), &format!("host {process}"), PATIENCE).unwrap()));
        }
    });
}

#[test]
fn keys_and_values() {
    together::<3>(|group| {
        let own = group.process();
        assert_eq!((group.processes(), group.abouts()[1].as_str()), (3, "host 1"));
        assert_eq!(group.try_get("none").unwrap(), None);
        let late = group.get("none", Duration::from_millis(50));
        assert!(matches!(late, Err(HostsError::TimedOut { .. })), "{late:?}");
        let value: Vec<u8> = (0..=255).cycle().take(1_000_000 + own).collect();
        group.put(&format!("from/{own}"), &value).unwrap();
        // Several threads of a process wait at once.
        std::thread::scope(|scope| {
            for other in 0..3 {
                let group = &group;
                scope.spawn(move || {
                    let value = group.get(&format!("from/{other}"), PATIENCE).unwrap();
                    assert_eq!((value.len(), value[255], value[256]), (1_000_000 + other, 255, 0));
                });
            }
        });
        group.put(&format!("own/{own}"), b"1").unwrap();
        group.put(&format!("own/{own}"), b"").unwrap();
        assert_eq!(group.try_get(&format!("own/{own}")).unwrap(), Some(vec![]), "the newest value, which may be empty");
        let large = group.put("large", &vec![0; (64 << 20) + 1]);
        assert!(matches!(large, Err(HostsError::Size { .. })), "{large:?}");
        assert_eq!(group.lost(), None);
        group.leave();
    });
}

#[test]
fn those_who_leave_are_not_lost() {
    let (sender, lost) = mpsc::channel::<Lost>();
    together::<2>(|group| {
        let sender = sender.clone();
        group.on_loss(move |lost| sender.send(lost.clone()).unwrap());
        if group.process() == 1 {
            return group.leave();
        }
        std::thread::sleep(Duration::from_secs(2));
        group.put("still", b"here").unwrap();
        group.leave();
    });
    drop(sender);
    assert_eq!(lost.recv().ok(), None);
}

#[test]
fn wrong_numbers_are_refused() {
    let at = address();
    let none = Group::join(&place(&at, 2, 2), "", PATIENCE);
    assert!(matches!(none, Err(HostsError::Number { process: 2, processes: 2 })));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| Group::join(&place(&at, 0, 2), "a", PATIENCE).unwrap());
        let other = Group::join(&place(&at, 1, 3), "b", PATIENCE).unwrap_err().to_string();
        assert!(other.contains("same number of them, got 3 where process 0 has 2"), "{other}");
        let again = Group::join(&Place { process: 1, ..place(&at, 1, 2) }, "b", PATIENCE).unwrap();
        let twice = Group::join(&place(&at, 1, 2), "c", PATIENCE).unwrap_err().to_string();
        assert!(twice.contains("process 1 is there already, on b"), "{twice}");
        let served = Group::join(&place(&at, 0, 2), "d", PATIENCE).unwrap_err();
        assert!(matches!(served, HostsError::Serve { .. }), "{served}");
        again.leave();
        first.join().unwrap().leave();
    });
}

#[test]
fn who_does_not_come_is_named() {
    let short = Duration::from_secs(1);
    let missing = Group::join(&place(&address(), 0, 3), "", short).unwrap_err().to_string();
    assert!(missing.contains("3 processes were expected within 1 s, but 1, 2 did not come"), "{missing}");
    let nobody = Group::join(&place(&address(), 1, 2), "", short).unwrap_err().to_string();
    assert!(nobody.contains("did not answer in 1 s") && nobody.contains("start process 0"), "{nobody}");
    let no_host = Group::join(&place("no such host:1", 1, 2), "", short).unwrap_err().to_string();
    assert!(no_host.contains("did not answer"), "{no_host}");
}

/// What a stranger sends does no harm.
#[test]
fn strangers_are_not_processes() {
    let at = address();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| Group::join(&place(&at, 0, 2), "a", PATIENCE).unwrap());
        let knock = || {
            (0..50).find_map(|_| {
                std::thread::sleep(Duration::from_millis(50));
                TcpStream::connect(&at).ok()
            })
        };
        for said in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"etrhost1M\0",
            b"etrhost1R\0\xff\xff\xff\xff",
            b"etrhost1R\x07",
            b"etrhost1?",
        ] {
            let mut stranger = knock().unwrap();
            stranger.set_read_timeout(Some(Duration::from_secs(7))).unwrap();
            stranger.write_all(said).unwrap();
            // The coordinator hangs up.
            let answer = stranger.read(&mut [0; 64]);
            assert!(matches!(answer, Ok(0)) || answer.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        }
        let other = Group::join(&place(&at, 1, 2), "b", PATIENCE).unwrap();
        let first = first.join().unwrap();
        first.put("k", b"v").unwrap();
        assert_eq!(other.try_get("k").unwrap(), Some(b"v".to_vec()));
        other.leave();
        first.leave();
    });
}

/// Starts this program anew as a process of a group, `process 1 of 2`. It has a process group of its own: when the shell that started the tests
/// in the background ends, the kernel wakes whoever stands still in its group.
fn start(at: &str, process: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process", "--ignored", "--nocapture"])
        .env("HOSTS_TEST_PLACE", format!("{at} {process}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "a process that the other tests start"]
fn a_process() {
    let said = std::env::var("HOSTS_TEST_PLACE").expect("the other tests say where");
    let (at, process) = said.split_once(' ').unwrap();
    let process: usize = process.parse().unwrap();
    let group = Group::join(&place(at, process, 2), &format!("child {process}"), PATIENCE).unwrap();
    group.put(&format!("from/{process}"), process.to_string().as_bytes()).unwrap();
    let other = group.get(&format!("from/{}", 1 - process), PATIENCE).unwrap();
    println!("\nheard {}", String::from_utf8(other).unwrap());
    group.on_loss(|lost| {
        println!("\n{lost}");
        std::process::exit(3);
    });
    // Waits for what never comes, as a plugin does.
    let _ = group.get("never", Duration::from_secs(60));
    std::thread::sleep(Duration::from_secs(60));
}

/// The next line of a process that begins so.
fn line(lines: &mut impl Iterator<Item = std::io::Result<String>>, begins: &str) -> String {
    lines.map(Result::unwrap).find(|line| line.starts_with(begins)).expect("the process says so")
}

#[test]
fn a_killed_process_is_noticed_by_the_other() {
    for killed in [0, 1] {
        let at = address();
        let mut children = [start(&at, 0), start(&at, 1)];
        let [mut zero, mut one] = children.each_mut().map(|c| BufReader::new(c.stdout.take().unwrap()).lines());
        assert_eq!((line(&mut zero, "heard"), line(&mut one, "heard")), ("heard 1".into(), "heard 0".into()));
        children[killed].kill().unwrap();
        let clock = Instant::now();
        let said = line(if killed == 0 { &mut one } else { &mut zero }, "process");
        let code = children[1 - killed].wait().unwrap().code();
        assert!(said.starts_with(&format!("process {killed} on child {killed} is gone")), "{said}");
        assert!(clock.elapsed() < NOTICED, "{:?}", clock.elapsed());
        assert_eq!(code, Some(3));
        children[killed].wait().unwrap();
    }
}

/// A process that stands still, as one does whose host lost its network.
#[test]
fn a_stopped_process_is_noticed_by_the_other() {
    for stopped in [0, 1] {
        let at = address();
        let mut children = [start(&at, 0), start(&at, 1)];
        let [mut zero, mut one] = children.each_mut().map(|c| BufReader::new(c.stdout.take().unwrap()).lines());
        line(&mut zero, "heard");
        line(&mut one, "heard");
        let signal = |name: &str, child: &Child| {
            assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
        };
        signal("-STOP", &children[stopped]);
        let clock = Instant::now();
        let said = line(if stopped == 0 { &mut one } else { &mut zero }, "process");
        assert!(said.contains("no sign of life for 5 s"), "{said}");
        assert!(clock.elapsed() < NOTICED, "{:?}", clock.elapsed());
        children[stopped].kill().unwrap();
        children.iter_mut().for_each(|child| drop(child.wait()));
    }
}
