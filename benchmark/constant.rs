//! The limit of every small answer: a handler that knows it by heart, in the same web server with as many workers.

use crate::Outcome;
use crate::cluster::{free_port, started};
use crate::process::Process;
use actix_web::{App, HttpResponse, HttpServer, web};
use std::env;
use std::process::Command;

/// The word by which this program starts itself as the constant handler.
pub(crate) const COMMAND: &str = "serve-constant";

/// Answers every request with an empty 404, as the master does for a missing key, until a signal ends it.
pub(crate) fn serve(port: &str) -> Outcome<()> {
    let port: u16 = port.parse()?;
    let app = || App::new().default_service(web::to(|| async { HttpResponse::NotFound().finish() }));
    let server = HttpServer::new(app).backlog(4096).bind(("127.0.0.1", port))?;
    Ok(actix_rt::System::new().block_on(server.run())?)
}

/// A running constant handler.
pub(crate) struct Constant {
    _process: Process,
    pub(crate) address: String,
}

impl Constant {
    pub(crate) fn start() -> Outcome<Constant> {
        let port = free_port()?;
        let mut command = Command::new(env::current_exe()?);
        command.args([COMMAND, &port.to_string()]);
        let process = started(Process::start(&command)?, port)?;
        Ok(Constant { _process: process, address: format!("127.0.0.1:{port}") })
    }
}
