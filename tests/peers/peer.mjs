// A server of the test network, a role a process: `node peer.mjs ROLE PORT [MORE…]`. What arrives is a line in arrived.log.
import dgram from 'node:dgram';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';

const [role, number, ...more] = process.argv.slice(2);
const port = Number(number);
const arrived = (line) => fs.appendFileSync('arrived.log', `${role} ${port} ${line}\n`);
const ready = () => fs.writeFileSync(`ready-${role}-${port}`, '');

// A model's API as agents know it, answering in pieces (server-sent events).
const model = (response) => {
  const events = [
    ['message_start', { message: { id: 'msg_1', type: 'message', role: 'assistant', model: 'stand-in', content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } }],
    ['content_block_start', { index: 0, content_block: { type: 'text', text: '' } }],
    ...['hello ', 'from the ', 'stand-in model'].map((text) => ['content_block_delta', { index: 0, delta: { type: 'text_delta', text } }]),
    ['content_block_stop', { index: 0 }],
    ['message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 9 } }],
    ['message_stop', {}],
  ];
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const next = () => {
    const event = events.shift();
    if (!event) return response.end();
    response.write(`event: ${event[0]}\ndata: ${JSON.stringify({ type: event[0], ...event[1] })}\n\n`);
    setTimeout(next, 20);
  };
  next();
};

const big = (response, bytes) => {
  const piece = Buffer.alloc(1 << 20, 'x');
  response.setHeader('content-length', bytes);
  let left = bytes;
  const send = () => {
    while (left > 0) {
      const size = Math.min(left, piece.length);
      left -= size;
      if (!response.write(size === piece.length ? piece : piece.subarray(0, size))) return response.once('drain', send);
    }
    response.end();
  };
  send();
};

const serve = (request, response) => {
  arrived(`${request.method} ${request.url} host=${request.headers.host}`);
  request.resume();
  const url = new URL(request.url, 'http://x');
  if (url.pathname === '/big') return big(response, Number(url.searchParams.get('bytes')));
  if (url.pathname.startsWith('/v1/messages')) {
    return url.pathname.endsWith('count_tokens') ? response.end('{"input_tokens":1}') : model(response);
  }
  if (url.pathname.startsWith('/files/')) {
    return fs.readFile(`.${url.pathname}`, (error, bytes) => {
      response.statusCode = error ? 404 : 200;
      response.end(bytes);
    });
  }
  if (url.pathname === '/headers') return response.end(JSON.stringify(request.headers));
  response.end(`hello from ${role} ${port}, asked for ${request.headers.host}\n`);
};

const roles = {
  http: () => http.createServer(serve).listen(port, '::', ready),
  https: () => https.createServer({ key: fs.readFileSync(more[0]), cert: fs.readFileSync(more[1]) }, serve).listen(port, '::', ready),
  // Takes a connection and never says a word.
  silent: () => net.createServer(() => arrived('connection')).listen(port, '::', ready),
  // Says back what it hears, over TCP and UDP.
  echo: () => {
    dgram.createSocket('udp6', () => arrived('datagram')).bind(port, '::');
    net.createServer((socket) => {
      arrived('connection');
      socket.on('error', () => {}).pipe(socket);
    }).listen(port, '::', ready);
  },
  // Answers each question for a name with the next of its addresses: `NAME=ADDRESS,ADDRESS`.
  dns: () => {
    const names = Object.fromEntries(more.map((entry) => entry.split('=')).map(([name, list]) => [name, list.split(',')]));
    const socket = dgram.createSocket('udp4', (question, from) => {
      const labels = [];
      let at = 12;
      for (; question[at]; at += question[at] + 1) labels.push(question.toString('latin1', at + 1, at + 1 + question[at]));
      const asked = question.subarray(12, at + 5);
      const name = labels.join('.');
      const isA = question.readUInt16BE(at + 1) === 1;
      arrived(`${isA ? 'A' : 'other'} ${name}`);
      const address = isA && names[name] && (names[name].length > 1 ? names[name].shift() : names[name][0]);
      const header = Buffer.from([question[0], question[1], 0x81, names[name] ? 0x80 : 0x83, 0, 1, 0, address ? 1 : 0, 0, 0, 0, 0]);
      const record = address ? Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ...address.split('.').map(Number)]) : Buffer.alloc(0);
      socket.send(Buffer.concat([header, asked, record]), from.port, from.address);
    });
    // An answer must come from the address that was asked.
    socket.bind(port, '203.0.113.53', ready);
  },
};
roles[role]();
