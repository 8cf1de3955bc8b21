// Streams through Kubernetes' own JavaScript client. Usage: streams.mjs MODULES NAMESPACE; prints what it saw, a line each.
import { createRequire } from 'node:module';
import net from 'node:net';
import { PassThrough } from 'node:stream';

const k8s = createRequire(`${process.argv[2]}/`)('@kubernetes/client-node');
const namespace = process.argv[3];
const config = new k8s.KubeConfig();
config.loadFromDefault();

function collected() {
    const stream = new PassThrough();
    stream.text = '';
    stream.on('data', (piece) => (stream.text += piece));
    stream.until = (wanted) =>
        new Promise((resolve) => {
            const look = () => stream.text.includes(wanted) && resolve(stream.text.trim());
            stream.on('data', look);
            look();
        });
    return stream;
}

const exec = new k8s.Exec(config);
const out = collected();
const status = await new Promise((resolve, reject) => {
    const input = new PassThrough();
    exec.exec(namespace, 'echo', 'other', ['sh', '-c', 'read line; echo got $line; exit 3'], out, null, input, false, resolve)
        .then(() => input.write('something\n'), reject);
});
console.log('exec', out.text.trim(), status.reason, status.details.causes[0].message);

const joined = collected();
const input = new PassThrough();
const socket = await new k8s.Attach(config).attach(namespace, 'echo', 'echo', joined, null, input, false);
input.write('javascript\n');
console.log('attach', await joined.until('javascript'));
socket.close();

const log = collected();
await new k8s.Log(config).log(namespace, 'echo', 'echo', log, { follow: true });
console.log('log', (await log.until('javascript')).split('\n').pop());

const forward = new k8s.PortForward(config);
const server = net.createServer((client) => forward.portForward(namespace, 'page', [8080], client, null, client));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const page = collected();
const client = net.connect(server.address().port, '127.0.0.1');
client.write('GET / HTTP/1.0\r\n\r\n');
client.pipe(page);
console.log('forward', (await page.until('a page')).split('\r\n\r\n')[1]);
process.exit(0);
