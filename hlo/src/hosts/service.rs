//! The store of process 0, and who is there. A thread listens; each connection has a thread of its own.

use super::{BEAT, HostsError, Lost, SILENCE, lock, wire};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use wire::{Answer, Asked, Hello, News, Sign};

/// Most bytes of all keys and values together.
const MOST_BYTES: usize = 256 << 20;

/// A process that has joined.
struct Member {
    about: String,
    /// Where it hears news.
    news: TcpStream,
    left: bool,
}

#[derive(Default)]
struct State {
    values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    members: BTreeMap<usize, Member>,
    lost: Option<Lost>,
}

struct Shared {
    processes: usize,
    state: Mutex<State>,
    /// A value came, a process left or was lost.
    changed: Condvar,
    connections: AtomicUsize,
    stop: AtomicBool,
}

/// The coordinator, running.
pub struct Service {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Service {
    /// Listens at `address`.
    pub fn start(address: &str, processes: usize) -> Result<Service, HostsError> {
        let failed = |e: std::io::Error| HostsError::Serve { address: address.into(), why: e.to_string() };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            processes,
            state: Mutex::default(),
            changed: Condvar::new(),
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let service = Service { shared: shared.clone(), address: at };
        let listen = move || {
            for connection in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                match connection {
                    Ok(connection) => Shared::accept(&shared, connection),
                    // Out of file descriptors, say: they may come back.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        std::thread::Builder::new().name("coordinator".into()).spawn(listen).map_err(failed)?;
        Ok(service)
    }

    /// The processes that have not joined, as a text.
    pub fn missing(&self) -> String {
        let state = lock(&self.shared.state);
        let missing: Vec<String> =
            (0..self.shared.processes).filter(|p| !state.members.contains_key(p)).map(|p| p.to_string()).collect();
        if missing.is_empty() { "some".into() } else { missing.join(", ") }
    }

    /// Waits until all have left or one is lost, for at most `patience`.
    pub fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = lock(&self.shared.state);
        while state.members.values().any(|m| !m.left) && state.lost.is_none() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The listener looks at the flag when somebody knocks.
        let _ = TcpStream::connect_timeout(&self.address, SILENCE);
        for member in lock(&self.shared.state).members.values() {
            let _ = member.news.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Serves a connection on a thread of its own; strangers have little time and are few.
    fn accept(shared: &Arc<Shared>, mut connection: TcpStream) {
        let most = 8 * shared.processes + 64;
        if shared.connections.fetch_add(1, Ordering::SeqCst) >= most {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let of_thread = shared.clone();
        let serve = move || {
            // A connection that fails is over; if it was a member's, `members` has told the others.
            let _ = of_thread.serve(&mut connection);
            of_thread.connections.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new().name("coordinator-connection".into()).spawn(serve).is_err() {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn serve(&self, connection: &mut TcpStream) -> std::io::Result<()> {
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(SILENCE))?;
        connection.set_write_timeout(Some(SILENCE))?;
        match wire::read_hello(connection)? {
            Hello::Member { process, processes, about } => self.member(connection, process, processes, about),
            Hello::Requests => {
                connection.set_read_timeout(None)?;
                while !self.stop.load(Ordering::SeqCst) {
                    let answer = self.answer(wire::read_request(connection)?);
                    wire::answer(connection, &answer)?;
                }
                Ok(())
            }
        }
    }

    /// Takes a process in and listens to it until it leaves or is lost.
    fn member(
        &self,
        connection: &mut TcpStream,
        process: usize,
        processes: usize,
        about: String,
    ) -> std::io::Result<()> {
        if let Err(why) = self.enter(connection, process, processes, about)? {
            return wire::tell(connection, &News::Refused(why));
        }
        connection.set_read_timeout(Some(BEAT))?;
        let mut heard = Instant::now();
        let why = loop {
            match wire::read_sign(connection) {
                Ok(Sign::Alive) => {
                    heard = Instant::now();
                    let mut state = lock(&self.state);
                    // Under the lock, so that news do not mix.
                    if let Some(member) = state.members.get_mut(&process) {
                        // Where that fails, the next reading says whether the process has left or is lost.
                        let _ = wire::tell(&mut member.news, &News::Alive);
                    }
                }
                Ok(Sign::Left) => {
                    if let Some(member) = lock(&self.state).members.get_mut(&process) {
                        member.left = true;
                    }
                    self.changed.notify_all();
                    return Ok(());
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    // Before all are there nobody gives any.
                    if lock(&self.state).members.len() < self.processes {
                        heard = Instant::now();
                    } else if heard.elapsed() > SILENCE {
                        break format!("no sign of life for {} s", SILENCE.as_secs());
                    }
                }
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => break "it ended, or its connection did".into(),
                Err(e) => break format!("its connection ended ({e})"),
            }
        };
        self.lose(process, why);
        Ok(())
    }

    /// Notes a process that joins; tells all when it is the last one. `Err` says why it may not.
    fn enter(
        &self,
        connection: &TcpStream,
        process: usize,
        processes: usize,
        about: String,
    ) -> std::io::Result<Result<(), String>> {
        let mut state = lock(&self.state);
        if processes != self.processes {
            return Ok(Err(format!(
                "all processes name the same number of them, got {processes} where process 0 has {}; start it with the same number",
                self.processes
            )));
        }
        if process >= processes {
            return Ok(Err(format!("numbers go from 0 to {}, got {process}; give it another one", processes - 1)));
        }
        if let Some(lost) = &state.lost {
            return Ok(Err(format!("{lost}; start all processes anew")));
        }
        if let Some(there) = state.members.get(&process) {
            return Ok(Err(format!("process {process} is there already, on {}; give it another number", there.about)));
        }
        state.members.insert(process, Member { about, news: connection.try_clone()?, left: false });
        if state.members.len() == processes {
            let abouts: Vec<String> = state.members.values().map(|m| m.about.clone()).collect();
            for member in state.members.values_mut() {
                // One that is gone meanwhile is noticed by its own thread.
                let _ = wire::tell(&mut member.news, &News::Complete(abouts.clone()));
            }
        }
        Ok(Ok(()))
    }

    /// Tells all that a process is gone.
    fn lose(&self, process: usize, why: String) {
        let mut state = lock(&self.state);
        if state.lost.is_none() {
            let about = state.members.get(&process).map(|m| m.about.clone()).unwrap_or_default();
            let lost = Lost { process, about, why };
            for (_, member) in state.members.iter_mut().filter(|(p, m)| **p != process && !m.left) {
                let _ = wire::tell(&mut member.news, &News::Lost(lost.clone()));
            }
            state.lost = Some(lost);
        }
        self.changed.notify_all();
    }

    fn answer(&self, asked: Asked) -> Answer {
        let mut state = lock(&self.state);
        match asked {
            Asked::Put(key, value) => {
                let old = state.values.get(&key).map_or(0, |old| key.len() + old.len());
                let bytes = state.bytes - old + key.len() + value.len();
                if bytes > MOST_BYTES {
                    return Answer::Refused(format!(
                        "it holds {} MiB at most, got {bytes} bytes with `{key}`; send less",
                        MOST_BYTES >> 20
                    ));
                }
                state.bytes = bytes;
                state.values.insert(key, value);
                self.changed.notify_all();
                Answer::Value(Vec::new())
            }
            Asked::TryGet(key) => state.values.get(&key).map_or(Answer::Nothing, |v| Answer::Value(v.clone())),
            Asked::Get(key, timeout) => {
                let until = Instant::now() + timeout;
                loop {
                    if let Some(value) = state.values.get(&key) {
                        return Answer::Value(value.clone());
                    }
                    if let Some(lost) = &state.lost {
                        return Answer::Lost(lost.clone());
                    }
                    let left = until.checked_duration_since(Instant::now());
                    let Some(left) = left.filter(|_| !self.stop.load(Ordering::SeqCst)) else {
                        return Answer::TimedOut;
                    };
                    let waited = self.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}
