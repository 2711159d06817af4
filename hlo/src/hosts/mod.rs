//! Processes on several hosts that work on one thing: how they find each other, tell each other things, and notice that one is gone.
//!
//! Process 0 serves a store of keys and values at an address that all know, the *coordinator*. A plugin that drives devices of several
//! hosts asks its caller for such a store ([`ClientOptions::group`](crate::pjrt::ClientOptions::group)); what the processes agree on otherwise goes
//! through it too. Reading order:
//!
//! | file | what |
//! |---|---|
//! | this one | a member: join, put, get, leave |
//! | `wire` | what goes over a connection |
//! | `service` | the store, and who is there |
//!
//! ```no_run
//! # use hlo::hosts::{Group, Place};
//! # use std::time::Duration;
//! # fn main() -> Result<(), hlo::hosts::HostsError> {
//! let place = Place { coordinator: "10.0.0.1:8476".into(), process: 1, processes: 2 };
//! let group = Group::join(&place, "host-b", Duration::from_secs(300))?;
//! group.put("from/1", b"ready")?;
//! assert_eq!(group.get("from/0", Duration::from_secs(10))?, b"ready");
//! group.leave();
//! # Ok(()) }
//! ```
//!
//! A member that ends without [`Group::leave`], whose host stops or whose network breaks, is *lost*: within [`NOTICED`] all others know
//! ([`Group::on_loss`]), and whoever waits for a key is told. Whoever reaches the port can read and write: use a network that you trust.

mod service;
mod wire;

use service::Service;
use std::{
    io::ErrorKind,
    net::{Shutdown, TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use wire::{Answer, News, Request};

/// A lost process is noticed by the others within this time.
pub const NOTICED: Duration = Duration::from_secs(8);

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);

/// Without a sign of life for so long a process is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Most processes of a group.
pub const MOST_PROCESSES: usize = 4096;

/// Which of how many processes, and where they meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `HOST:PORT`, an address of the host of process 0 that the others reach.
    pub coordinator: String,
    /// Number of this process, from 0.
    pub process: usize,
    /// How many there are.
    pub processes: usize,
}

/// Processes did not find each other, or one was lost.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// The numbers make no sense.
    #[error("the processes of a group are numbered from 0, got process {process} of {processes}; number {processes} processes from 0 to {}", .processes.saturating_sub(1))]
    Number {
        /// Number of the process.
        process: usize,
        /// How many there are.
        processes: usize,
    },
    /// Process 0 cannot serve at the address.
    #[error("process 0 serves the coordinator at {address}, but {why}; use an address of this host and a free port")]
    Serve {
        /// Where.
        address: String,
        /// What the system says.
        why: String,
    },
    /// The coordinator cannot be reached.
    #[error(
        "all processes meet at the coordinator, but {address} did not answer in {} s ({why}); start process 0 there, and look at the firewall", .waited.as_secs()
    )]
    Reach {
        /// Where.
        address: String,
        /// The last failure.
        why: String,
        /// For how long it was tried.
        waited: Duration,
    },
    /// The coordinator does not want this process.
    #[error("the coordinator refused process {process}: {why}")]
    Refused {
        /// Number of the process.
        process: usize,
        /// Its words.
        why: String,
    },
    /// Not all came.
    #[error("{processes} processes were expected within {} s, but {missing} did not come; start them with the same coordinator and number of processes", .waited.as_secs())]
    Missing {
        /// How many there should be.
        processes: usize,
        /// Those that are not there.
        missing: String,
        /// For how long they were waited for.
        waited: Duration,
    },
    /// Nobody put a value.
    #[error("a value for `{key}` was expected within {:.1} s, but no process put one; see what the others print", .waited.as_secs_f64())]
    TimedOut {
        /// The key.
        key: String,
        /// For how long it was waited for.
        waited: Duration,
    },
    /// A process is gone.
    #[error("{0}")]
    Lost(Lost),
    /// Too large for the store.
    #[error("the coordinator holds keys of up to {} bytes and values of up to {} MiB, got {key} and {value} bytes; send less", wire::MOST_KEY, wire::MOST_VALUE >> 20)]
    Size {
        /// Bytes of the key.
        key: usize,
        /// Bytes of the value.
        value: usize,
    },
}

/// A process that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its number.
    pub process: usize,
    /// What it said of itself when it joined, if that is known: its host.
    pub about: String,
    /// How that was noticed.
    pub why: String,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Lost { process, about, why } = self;
        let about = if about.is_empty() { String::new() } else { format!(" on {about}") };
        write!(f, "process {process}{about} is gone: {why}")
    }
}

/// What is done when a process is lost.
type Callback = Box<dyn Fn(&Lost) + Send>;

/// What the thread that watches shares with its group.
#[derive(Default)]
struct Watch {
    lost: Option<Lost>,
    left: bool,
    callback: Option<Callback>,
}

/// This process among others. See the [module](self).
pub struct Group {
    place: Place,
    abouts: Vec<String>,
    watch: Arc<Mutex<Watch>>,
    /// The connection whose end is the end of the membership.
    member: TcpStream,
    /// Connections that wait for a request.
    idle: Mutex<Vec<TcpStream>>,
    /// Of process 0.
    service: Option<Service>,
}

impl Group {
    /// Meets the others, for at most `patience`. `about` is what they are told of this process, such as the name of its host.
    ///
    /// # Errors
    /// When the numbers make no sense, the coordinator cannot be served or reached, or not all come.
    pub fn join(place: &Place, about: &str, patience: Duration) -> Result<Group, HostsError> {
        let Place { process, processes, coordinator } = place.clone();
        if process >= processes || processes > MOST_PROCESSES {
            return Err(HostsError::Number { process, processes });
        }
        let service = if process == 0 { Some(Service::start(&coordinator, processes)?) } else { None };
        let until = Instant::now() + patience;
        let mut member = connect(place, until, patience)?;
        let refused = |why: String| HostsError::Refused { process, why };
        let late = |e: std::io::Error| HostsError::Reach {
            address: coordinator.clone(),
            why: e.to_string(),
            waited: patience,
        };
        wire::join(&mut member, process, processes, about).map_err(late)?;
        member.set_read_timeout(Some(patience.max(BEAT))).map_err(late)?;
        let abouts = match wire::read_news(&mut member) {
            Ok(News::Complete(abouts)) => abouts,
            Ok(News::Refused(why)) => return Err(refused(why)),
            Ok(News::Lost(lost)) => return Err(HostsError::Lost(lost)),
            Ok(News::Alive) => return Err(refused("it does not speak as a coordinator does".into())),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let missing = service.as_ref().map_or_else(|| "some".into(), Service::missing);
                return Err(HostsError::Missing { processes, missing, waited: patience });
            }
            Err(e) => return Err(late(e)),
        };
        let watch = Arc::new(Mutex::new(Watch::default()));
        let group = Group { place: place.clone(), abouts, watch, member, idle: Mutex::default(), service };
        group.keep_alive().map_err(late)?;
        Ok(group)
    }

    /// Number of this process.
    pub fn process(&self) -> usize {
        self.place.process
    }

    /// How many there are.
    pub fn processes(&self) -> usize {
        self.place.processes
    }

    /// What each process said of itself.
    pub fn abouts(&self) -> &[String] {
        &self.abouts
    }

    /// Puts a value in the store, in place of an older one.
    ///
    /// # Errors
    /// When it is too large, or a process is lost.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), HostsError> {
        if key.len() > wire::MOST_KEY || value.len() > wire::MOST_VALUE {
            return Err(HostsError::Size { key: key.len(), value: value.len() });
        }
        match self.ask(&Request::Put { key, value }, SILENCE)? {
            Answer::Value(_) => Ok(()),
            answer => Err(self.unexpected(key, answer, SILENCE)),
        }
    }

    /// The value of a key, waiting for somebody to put it.
    ///
    /// # Errors
    /// When nobody does in time, or a process is lost.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, HostsError> {
        match self.ask(&Request::Get { key, timeout }, timeout + SILENCE)? {
            Answer::Value(value) => Ok(value),
            answer => Err(self.unexpected(key, answer, timeout)),
        }
    }

    /// The value of a key, if there is one now.
    ///
    /// # Errors
    /// When a process is lost.
    pub fn try_get(&self, key: &str) -> Result<Option<Vec<u8>>, HostsError> {
        match self.ask(&Request::TryGet { key }, SILENCE)? {
            Answer::Value(value) => Ok(Some(value)),
            Answer::Nothing => Ok(None),
            answer => Err(self.unexpected(key, answer, SILENCE)),
        }
    }

    /// The process that was lost, if one was.
    pub fn lost(&self) -> Option<Lost> {
        lock(&self.watch).lost.clone()
    }

    /// Calls `act` when a process is lost, at once if one was, on another thread otherwise.
    pub fn on_loss(&self, act: impl Fn(&Lost) + Send + 'static) {
        let mut watch = lock(&self.watch);
        if let Some(lost) = &watch.lost {
            act(lost);
        }
        watch.callback = Some(Box::new(act));
    }

    /// Leaves: for the others this process is done, not lost. Process 0 waits until they have left too, or [`NOTICED`].
    pub fn leave(&self) {
        lock(&self.watch).left = true;
        // A coordinator that is gone need not be told.
        let _ = wire::leave(&mut &self.member);
        if let Some(service) = &self.service {
            service.finish(NOTICED);
        }
    }

    fn unexpected(&self, key: &str, answer: Answer, waited: Duration) -> HostsError {
        match answer {
            Answer::Lost(lost) => HostsError::Lost(lost),
            Answer::Refused(why) => HostsError::Refused { process: self.place.process, why },
            _ => HostsError::TimedOut { key: key.into(), waited },
        }
    }

    /// Sends a request on a connection of its own: others may be waiting for an answer.
    fn ask(&self, request: &Request<'_>, patience: Duration) -> Result<Answer, HostsError> {
        let idle = lock(&self.idle).pop();
        let gone = |e: std::io::Error| {
            let why = format!("the coordinator does not answer ({e})");
            HostsError::Lost(self.lost().unwrap_or_else(|| Lost { process: 0, about: self.abouts[0].clone(), why }))
        };
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let mut new = connect(&self.place, Instant::now() + SILENCE, SILENCE)?;
                wire::open(&mut new).map_err(gone)?;
                new
            }
        };
        connection.set_read_timeout(Some(patience)).map_err(gone)?;
        let answer = wire::ask(&mut connection, request).map_err(gone)?;
        lock(&self.idle).push(connection);
        Ok(answer)
    }

    /// Starts the thread that gives signs of life and hears of losses.
    fn keep_alive(&self) -> std::io::Result<()> {
        let (watch, about) = (self.watch.clone(), self.abouts[0].clone());
        let mut member = self.member.try_clone()?;
        member.set_read_timeout(Some(BEAT))?;
        let lose = move |lost: Lost| {
            let mut watch = lock(&watch);
            if watch.left || watch.lost.is_some() {
                return;
            }
            if let Some(act) = &watch.callback {
                act(&lost);
            }
            watch.lost = Some(lost);
        };
        let watch = move || {
            let mut heard = Instant::now();
            loop {
                let sent = wire::alive(&mut member);
                match sent.and_then(|()| wire::read_news(&mut member)) {
                    Ok(News::Lost(lost)) => lose(lost),
                    Ok(_) => {
                        heard = Instant::now();
                        std::thread::sleep(BEAT);
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => {
                        return lose(Lost { process: 0, about, why: format!("its connection ended ({e})") });
                    }
                }
                if heard.elapsed() > SILENCE {
                    let why = format!("no sign of life for {} s", SILENCE.as_secs());
                    return lose(Lost { process: 0, about, why });
                }
            }
        };
        std::thread::Builder::new().name("hosts".into()).spawn(watch).map(drop)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        lock(&self.watch).left = true;
        // Where it was not left, the others notice the end of this connection.
        let _ = self.member.shutdown(Shutdown::Both);
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group(process {} of {})", self.place.process, self.place.processes)
    }
}

/// A connection to the coordinator, tried again and again.
fn connect(place: &Place, until: Instant, waited: Duration) -> Result<TcpStream, HostsError> {
    let once = || -> std::io::Result<TcpStream> {
        let mut failure = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in place.coordinator.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, SILENCE) {
                Ok(connection) => {
                    connection.set_nodelay(true)?;
                    connection.set_write_timeout(Some(SILENCE))?;
                    return Ok(connection);
                }
                Err(e) => failure = e,
            }
        }
        Err(failure)
    };
    loop {
        match once() {
            Ok(connection) => return Ok(connection),
            // Process 0 may start last.
            Err(_) if Instant::now() < until => std::thread::sleep(BEAT / 5),
            Err(e) => {
                return Err(HostsError::Reach { address: place.coordinator.clone(), why: e.to_string(), waited });
            }
        }
    }
}

/// No code that can panic runs under these locks, but callbacks, after which nothing is half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
