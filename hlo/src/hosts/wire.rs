//! What goes over a connection. Numbers are little-endian; texts and bytes carry their length, which is bounded before memory is taken.
//!
//! A connection begins with [`MAGIC`] and what it is for. A *member* sends its numbers, and then a byte as a sign of life from time to time;
//! it hears [`News`]. The others ask, one [`Request`] after another, and hear an [`Answer`] to each.

use super::{Lost, MOST_PROCESSES};
use std::{
    io::{Error, ErrorKind, Read, Result, Write},
    net::TcpStream,
    time::Duration,
};

/// Name and version of the protocol.
const MAGIC: &[u8; 8] = b"etrhost1";

/// Longest key, in bytes.
pub const MOST_KEY: usize = 64 << 10;

/// Longest value, in bytes.
pub const MOST_VALUE: usize = 64 << 20;

/// Longest text that a process says, in bytes.
const MOST_TEXT: usize = 4 << 10;

const MEMBER: u8 = b'M';
const REQUESTS: u8 = b'R';

const ALIVE: u8 = 0;
const LEFT: u8 = 1;

/// What a connection is for.
pub enum Hello {
    /// A process wants to join.
    Member { process: usize, processes: usize, about: String },
    /// Requests follow.
    Requests,
}

/// What a member says after that.
#[derive(Debug, PartialEq, Eq)]
pub enum Sign {
    Alive,
    Left,
}

/// What a member hears.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// An answer to a sign of life.
    Alive,
    /// All are there, and what each said of itself.
    Complete(Vec<String>),
    /// The process may not join.
    Refused(String),
    /// A process is gone.
    Lost(Lost),
}

/// What is asked of the store.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Put { key: &'a str, value: &'a [u8] },
    Get { key: &'a str, timeout: Duration },
    TryGet { key: &'a str },
}

/// What it answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value; of a `Put`, nothing.
    Value(Vec<u8>),
    /// There is none.
    Nothing,
    /// There was none in time.
    TimedOut,
    /// The store does not take it.
    Refused(String),
    /// A process is gone.
    Lost(Lost),
}

/// A request as the service reads it.
pub enum Asked {
    Put(String, Vec<u8>),
    Get(String, Duration),
    TryGet(String),
}

fn odd(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("unknown {what}"))
}

fn number(from: &mut TcpStream) -> Result<usize> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

fn byte(from: &mut TcpStream) -> Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn bytes(from: &mut TcpStream, most: usize) -> Result<Vec<u8>> {
    let length = number(from)?;
    if length > most {
        return Err(odd("length"));
    }
    // Memory for what has come, not for what was announced.
    let mut all = Vec::new();
    from.take(length as u64).read_to_end(&mut all)?;
    if all.len() < length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(all) }
}

fn text(from: &mut TcpStream, most: usize) -> Result<String> {
    String::from_utf8(bytes(from, most)?).map_err(|_| odd("text"))
}

fn add_number(to: &mut Vec<u8>, n: usize) {
    to.extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
}

fn add_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    add_number(to, bytes.len());
    to.extend(bytes);
}

fn add_text(to: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    add_bytes(to, &text.as_bytes()[..end]);
}

fn add_lost(to: &mut Vec<u8>, lost: &Lost) {
    add_number(to, lost.process);
    add_text(to, &lost.about);
    add_text(to, &lost.why);
}

fn lost(from: &mut TcpStream) -> Result<Lost> {
    Ok(Lost { process: number(from)?, about: text(from, MOST_TEXT)?, why: text(from, MOST_TEXT)? })
}

/// Begins a connection of a member.
pub fn join(to: &mut TcpStream, process: usize, processes: usize, about: &str) -> Result<()> {
    let mut all = MAGIC.to_vec();
    all.push(MEMBER);
    add_number(&mut all, process);
    add_number(&mut all, processes);
    add_text(&mut all, about);
    to.write_all(&all)
}

/// Begins a connection for requests.
pub fn open(to: &mut TcpStream) -> Result<()> {
    to.write_all(&[MAGIC.as_slice(), &[REQUESTS]].concat())
}

/// Reads what a connection is for.
pub fn read_hello(from: &mut TcpStream) -> Result<Hello> {
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(odd("protocol"));
    }
    match byte(from)? {
        MEMBER => Ok(Hello::Member { process: number(from)?, processes: number(from)?, about: text(from, MOST_TEXT)? }),
        REQUESTS => Ok(Hello::Requests),
        _ => Err(odd("purpose")),
    }
}

/// A sign of life.
pub fn alive(to: &mut TcpStream) -> Result<()> {
    to.write_all(&[ALIVE])
}

/// The end of a membership.
pub fn leave(to: &mut &TcpStream) -> Result<()> {
    to.write_all(&[LEFT])
}

/// Reads what a member says.
pub fn read_sign(from: &mut TcpStream) -> Result<Sign> {
    match byte(from)? {
        ALIVE => Ok(Sign::Alive),
        LEFT => Ok(Sign::Left),
        _ => Err(odd("sign")),
    }
}

/// Tells a member.
pub fn tell(to: &mut TcpStream, news: &News) -> Result<()> {
    let mut all = Vec::new();
    match news {
        News::Alive => all.push(0),
        News::Complete(abouts) => {
            all.push(1);
            add_number(&mut all, abouts.len());
            abouts.iter().for_each(|about| add_text(&mut all, about));
        }
        News::Refused(why) => {
            all.push(2);
            add_text(&mut all, why);
        }
        News::Lost(lost) => {
            all.push(3);
            add_lost(&mut all, lost);
        }
    }
    to.write_all(&all)
}

/// Reads what a member hears. Where nothing comes in the time that the connection has for reading, nothing is lost: news come in one piece
/// after their first byte.
pub fn read_news(from: &mut TcpStream) -> Result<News> {
    match byte(from)? {
        0 => Ok(News::Alive),
        1 => {
            let count = number(from)?;
            if count > MOST_PROCESSES {
                return Err(odd("number of processes"));
            }
            Ok(News::Complete((0..count).map(|_| text(from, MOST_TEXT)).collect::<Result<_>>()?))
        }
        2 => Ok(News::Refused(text(from, MOST_TEXT)?)),
        3 => Ok(News::Lost(lost(from)?)),
        _ => Err(odd("news")),
    }
}

/// Sends a request and reads the answer.
pub fn ask(on: &mut TcpStream, request: &Request<'_>) -> Result<Answer> {
    let mut all = Vec::new();
    match request {
        Request::Put { key, value } => {
            all.push(0);
            add_bytes(&mut all, key.as_bytes());
            add_bytes(&mut all, value);
        }
        Request::Get { key, timeout } => {
            all.push(1);
            add_bytes(&mut all, key.as_bytes());
            add_number(&mut all, usize::try_from(timeout.as_millis()).unwrap_or(usize::MAX));
        }
        Request::TryGet { key } => {
            all.push(2);
            add_bytes(&mut all, key.as_bytes());
        }
    }
    on.write_all(&all)?;
    match byte(on)? {
        0 => Ok(Answer::Value(bytes(on, MOST_VALUE)?)),
        1 => Ok(Answer::Nothing),
        2 => Ok(Answer::TimedOut),
        3 => Ok(Answer::Refused(text(on, MOST_TEXT)?)),
        4 => Ok(Answer::Lost(lost(on)?)),
        _ => Err(odd("answer")),
    }
}

/// Reads a request.
pub fn read_request(from: &mut TcpStream) -> Result<Asked> {
    match byte(from)? {
        0 => Ok(Asked::Put(text(from, MOST_KEY)?, bytes(from, MOST_VALUE)?)),
        1 => Ok(Asked::Get(text(from, MOST_KEY)?, Duration::from_millis(number(from)? as u64))),
        2 => Ok(Asked::TryGet(text(from, MOST_KEY)?)),
        _ => Err(odd("request")),
    }
}

/// Answers a request.
pub fn answer(to: &mut TcpStream, answer: &Answer) -> Result<()> {
    let mut all = Vec::new();
    match answer {
        Answer::Value(value) => {
            all.push(0);
            add_bytes(&mut all, value);
        }
        Answer::Nothing => all.push(1),
        Answer::TimedOut => all.push(2),
        Answer::Refused(why) => {
            all.push(3);
            add_text(&mut all, why);
        }
        Answer::Lost(lost) => {
            all.push(4);
            add_lost(&mut all, lost);
        }
    }
    to.write_all(&all)
}
