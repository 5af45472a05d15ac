//! Chunked bodies: no panic, the same in pieces, none that httparse ends elsewhere.
#![no_main]

use egress_gateway::server::chunked::{ChunkFault, Progress, Scanner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // the first byte says how large the pieces are
    let Some((&size, body)) = bytes.split_first() else { return };
    let whole = Scanner::new().feed(body);
    assert_eq!(whole, in_pieces(body, usize::from(size).max(1)));
    if let Ok(Progress { valid, ended }) = whole {
        assert!(if ended { valid <= body.len() } else { valid == body.len() });
        if ended {
            assert_eq!(read_by_httparse(body), Some(valid));
        }
    }
});

fn in_pieces(body: &[u8], size: usize) -> Result<Progress, ChunkFault> {
    let mut scanner = Scanner::new();
    let mut all = Progress { valid: 0, ended: false };
    for piece in body.chunks(size) {
        let progress = scanner.feed(piece)?;
        all = Progress { valid: all.valid + progress.valid, ended: progress.ended };
    }
    Ok(all)
}

fn read_by_httparse(body: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&body[at..])
        else {
            return None;
        };
        at += line;
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            return match httparse::parse_headers(&body[at..], &mut fields) {
                Ok(httparse::Status::Complete((length, _))) => Some(at + length),
                Ok(httparse::Status::Partial) | Err(_) => None,
            };
        }
        at = at.checked_add(usize::try_from(size).ok()?)?;
        if body.get(at..at.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
}
