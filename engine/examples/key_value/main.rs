//! A crash-safe key-value store with forks, on a real image, from the public interface of the engine alone.
//!
//! ```text
//! cargo run --example key_value -- IMAGE create 256      make an image of 256 MiB
//! cargo run --example key_value -- IMAGE                 commands from standard input, one a line:
//!     put KEY VALUE | get KEY | del KEY | scan [PREFIX] | fork NAME | use NAME | drop NAME | list | sync | quit
//! ```
//!
//! [`store`] is the client of the engine and says how it works; [`tree`] are its B+trees; here is the command line.

mod store;
mod tree;

use envoyfs_engine::device::{OpenMode, UringDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_engine::store::Store as _;
use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use store::{KeyValue, Result};

fn create(path: &str, mebibytes: u64) -> Result<()> {
    std::fs::File::create_new(path)?.set_len(mebibytes << 20)?;
    let mut random = [[0; 16]; 2];
    std::fs::File::open("/dev/urandom")?.read_exact(random.as_flattened_mut())?;
    let [uuid, seed] = random;
    let options = FormatOptions::new("key-value", uuid, seed, SystemClock::new().wall_ns());
    let made = format(&UringDevice::open(path, OpenMode::ReadWrite, true)?, &options)?;
    println!("created: {} segments of {} bytes", made.containers, made.segment_bytes);
    Ok(())
}

/// One command; prints its answer.
fn command(store: &KeyValue, tree: &mut String, line: &str) -> Result<bool> {
    let mut words = line.splitn(3, ' ');
    let (verb, first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
    match verb {
        "put" => println!("ok {}", store.put(tree, first.as_bytes(), second.as_bytes())?.0),
        "del" => println!("ok {}", store.delete(tree, first.as_bytes())?.0),
        "get" => match store.get(tree, first.as_bytes())? {
            Some(value) => println!("= {}", String::from_utf8_lossy(&value)),
            None => println!("none"),
        },
        "scan" => {
            for (key, value) in store.range(tree, first.as_bytes(), None)? {
                if key.starts_with(first.as_bytes()) {
                    println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
                }
            }
            println!("end");
        }
        "fork" => println!("ok {}", store.fork(tree, first)?.0),
        "drop" => println!("ok {}", store.drop_tree(first)?.0),
        "use" if store.names().iter().any(|name| name == first) => {
            *tree = first.to_string();
            println!("ok");
        }
        "list" => println!("{}", store.names().join(" ")),
        "sync" => {
            store.sync()?;
            println!("synced");
        }
        "checkpoint" => {
            store.make_checkpoint()?;
            println!("checkpoint {}", store.engine.usage().checkpoint);
        }
        "usage" => {
            println!("{} bytes live, {} in the drop queue", store.engine.usage().live, store.engine.usage().drop_queue)
        }
        "quit" => return Ok(false),
        _ => {
            return Err(
                "put KEY VALUE, get KEY, del KEY, scan [PREFIX], fork NAME, use NAME, drop NAME, list, sync, quit"
                    .into(),
            );
        }
    }
    Ok(true)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let path = match words.as_slice() {
        [path, "create", size] => return create(path, size.parse()?),
        [path] => *path,
        _ => return Err("usage: key_value IMAGE [create MEBIBYTES]".into()),
    };
    let store = KeyValue::open(path)?;
    let worker = Arc::clone(&store);
    let checkpointer = std::thread::Builder::new().name("checkpointer".into()).spawn(move || worker.checkpointer())?;
    let mut tree = "main".to_string();
    for line in std::io::stdin().lock().lines() {
        match command(&store, &mut tree, &line?) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => println!("error: {error}"),
        }
    }
    store.stop();
    checkpointer.join().map_err(|_| "the checkpointer panicked")?;
    store.close()
}
