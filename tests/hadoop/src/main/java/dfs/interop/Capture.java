package dfs.interop;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.apache.hadoop.fs.StorageType;
import org.apache.hadoop.hdfs.DFSPacket;
import org.apache.hadoop.hdfs.protocol.BlockChecksumOptions;
import org.apache.hadoop.hdfs.protocol.BlockChecksumType;
import org.apache.hadoop.hdfs.protocol.DatanodeInfo;
import org.apache.hadoop.hdfs.protocol.DatanodeInfo.DatanodeInfoBuilder;
import org.apache.hadoop.hdfs.protocol.ExtendedBlock;
import org.apache.hadoop.hdfs.protocol.datatransfer.BlockConstructionStage;
import org.apache.hadoop.hdfs.protocol.datatransfer.DataTransferProtoUtil;
import org.apache.hadoop.hdfs.protocol.datatransfer.PacketHeader;
import org.apache.hadoop.hdfs.protocol.datatransfer.PipelineAck;
import org.apache.hadoop.hdfs.protocol.datatransfer.Sender;
import org.apache.hadoop.hdfs.protocol.proto.DataTransferProtos.BlockOpResponseProto;
import org.apache.hadoop.hdfs.protocol.proto.DataTransferProtos.ClientReadStatusProto;
import org.apache.hadoop.hdfs.protocol.proto.DataTransferProtos.OpBlockChecksumResponseProto;
import org.apache.hadoop.hdfs.protocol.proto.DataTransferProtos.ReadOpChecksumInfoProto;
import org.apache.hadoop.hdfs.protocol.proto.DataTransferProtos.Status;
import org.apache.hadoop.hdfs.protocol.proto.HdfsProtos.ChecksumTypeProto;
import org.apache.hadoop.hdfs.security.token.block.BlockTokenIdentifier;
import org.apache.hadoop.hdfs.server.datanode.BlockMetadataHeader;
import org.apache.hadoop.hdfs.server.datanode.CachingStrategy;
import org.apache.hadoop.hdfs.shortcircuit.ShortCircuitShm;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.security.token.Token;
import org.apache.hadoop.thirdparty.protobuf.ByteString;
import org.apache.hadoop.util.DataChecksum;

/**
 * Writes the bytes that Hadoop's own classes send, one hex file per message, for
 * proto/tests/golden_data_transfer.rs. The values here and there must be the same.
 */
public final class Capture {
  private static final ExtendedBlock BLOCK =
      new ExtendedBlock("BP-1234567-127.0.0.1-1700000000000", 1073741825L, 134217728L, 1001L);
  private static final Token<BlockTokenIdentifier> NO_TOKEN = new Token<>();
  private static final Token<BlockTokenIdentifier> TOKEN =
      new Token<>(new byte[] {1, 2, 3}, new byte[] {-1, 0, 127}, new Text("HDFS_BLOCK_TOKEN"), new Text("svc"));
  private static final String CLIENT = "DFSClient_NONMAPREDUCE_1_1";
  private static final DataChecksum CRC32C = DataChecksum.newDataChecksum(DataChecksum.Type.CRC32C, 512);

  private final Path dir;

  private Capture(Path dir) {
    this.dir = dir;
  }

  private interface Body {
    void writeTo(DataOutputStream out) throws Exception;
  }

  static void run(String[] args) throws Exception {
    Capture capture = new Capture(Paths.get(args[0]));
    capture.requests();
    capture.packets();
    capture.answers();
  }

  private void requests() throws Exception {
    DatanodeInfo[] targets = {datanode(1), datanode(2), datanode(3)};
    StorageType[] types = {StorageType.DISK, StorageType.SSD, StorageType.DISK};
    String[] ids = {"DS-1", "DS-2", "DS-3"};

    // Hadoop leaves the first target out of the message: it is the receiver.
    save("write_block_create", out -> new Sender(out).writeBlock(BLOCK, StorageType.DISK, NO_TOKEN, CLIENT, targets,
        types, null, BlockConstructionStage.PIPELINE_SETUP_CREATE, 3, 0, 0, 1001, CRC32C,
        CachingStrategy.newDefaultStrategy(), false, false, new boolean[] {false, false, false}, "DS-1", ids));
    save("write_block_recovery", out -> new Sender(out).writeBlock(BLOCK, StorageType.SSD, TOKEN, CLIENT, targets,
        types, datanode(9), BlockConstructionStage.PIPELINE_SETUP_STREAMING_RECOVERY, 2, 4096, 1048576, 1002, CRC32C,
        new CachingStrategy(true, 4194304L), true, true, new boolean[] {true, false, true}, "DS-1", ids));
    save("read_block", out -> new Sender(out).readBlock(BLOCK, NO_TOKEN, CLIENT, 4096, 1048576, true,
        CachingStrategy.newDefaultStrategy()));
    save("read_block_no_checksums", out -> new Sender(out).readBlock(BLOCK, TOKEN, CLIENT, 0, 134217728L, false,
        new CachingStrategy(false, 0L)));
    save("transfer_block", out -> new Sender(out).transferBlock(BLOCK, NO_TOKEN, CLIENT,
        new DatanodeInfo[] {targets[0], targets[1]}, new StorageType[] {StorageType.DISK, StorageType.ARCHIVE},
        new String[] {"DS-1", "DS-2"}));
    save("replace_block", out -> new Sender(out).replaceBlock(BLOCK, StorageType.DISK, NO_TOKEN, "uuid-9",
        datanode(9), "DS-9"));
    save("copy_block", out -> new Sender(out).copyBlock(BLOCK, NO_TOKEN));
    save("block_checksum", out -> new Sender(out).blockChecksum(BLOCK, NO_TOKEN,
        new BlockChecksumOptions(BlockChecksumType.MD5CRC)));
    ShortCircuitShm.SlotId slot = new ShortCircuitShm.SlotId(new ShortCircuitShm.ShmId(-5, 6), 7);
    save("request_short_circuit_fds",
        out -> new Sender(out).requestShortCircuitFds(BLOCK, NO_TOKEN, slot, 1, true));
    save("release_short_circuit_fds", out -> new Sender(out).releaseShortCircuitFds(slot));
    save("request_short_circuit_shm", out -> new Sender(out).requestShortCircuitShm(CLIENT));
  }

  private void packets() throws Exception {
    save("packet", out -> packet(4096, 7, 1300, false, false).writeTo(out));
    save("packet_sync", out -> packet(5396, 8, 100, false, true).writeTo(out));
    save("packet_last", out -> packet(5496, 9, 0, true, false).writeTo(out));
    save("packet_heartbeat", out -> packet(0, DFSPacket.HEART_BEAT_SEQNO, 0, false, false).writeTo(out));
    save("packet_header", out -> new PacketHeader(4 + 512 + 65536, 1L << 40, 1L << 33, false, 65536, true).write(out));
  }

  private void answers() throws Exception {
    int congested = PipelineAck.combineHeader(PipelineAck.ECN.CONGESTED, Status.SUCCESS, PipelineAck.SLOW.NORMAL);
    int failed = PipelineAck.combineHeader(PipelineAck.ECN.SUPPORTED, Status.ERROR_CHECKSUM, PipelineAck.SLOW.SLOW);
    int plain = PipelineAck.combineHeader(PipelineAck.ECN.DISABLED, Status.SUCCESS);
    int restart = PipelineAck.combineHeader(PipelineAck.ECN.DISABLED, Status.OOB_RESTART);
    save("ack", out -> new PipelineAck(7, new int[] {congested, failed, plain}, 123456789L).write(out));
    save("ack_success", out -> new PipelineAck(300, new int[] {plain, plain}, 0).write(out));
    save("ack_heartbeat", out -> new PipelineAck(-1, new int[] {plain}, 0).write(out));
    save("ack_restart", out -> new PipelineAck(PipelineAck.UNKOWN_SEQNO, new int[] {restart}).write(out));

    save("response_read", out -> BlockOpResponseProto.newBuilder().setStatus(Status.SUCCESS)
        .setReadOpChecksumInfo(ReadOpChecksumInfoProto.newBuilder()
            .setChecksum(DataTransferProtoUtil.toProto(CRC32C)).setChunkOffset(4096))
        .build().writeDelimitedTo(out));
    save("response_write", out -> BlockOpResponseProto.newBuilder().setStatus(Status.ERROR)
        .setFirstBadLink("10.0.0.2:9866").build().writeDelimitedTo(out));
    save("response_error", out -> BlockOpResponseProto.newBuilder().setStatus(Status.ERROR_ACCESS_TOKEN)
        .setMessage("no").build().writeDelimitedTo(out));
    save("response_checksum", out -> BlockOpResponseProto.newBuilder().setStatus(Status.SUCCESS)
        .setChecksumResponse(OpBlockChecksumResponseProto.newBuilder().setBytesPerCrc(512).setCrcPerBlock(262144)
            .setBlockChecksum(ByteString.copyFrom(new byte[] {0, 1, 2, 3})).setCrcType(ChecksumTypeProto.CHECKSUM_CRC32C))
        .build().writeDelimitedTo(out));
    save("client_read_status",
        out -> ClientReadStatusProto.newBuilder().setStatus(Status.CHECKSUM_OK).build().writeDelimitedTo(out));

    // A whole metadata file: header and checksums of the first packet's data.
    save("meta_file", out -> {
      BlockMetadataHeader.writeHeader(out, CRC32C);
      out.write(checksums(data(0, 1300)));
    });
  }

  private static DatanodeInfo datanode(int n) {
    return new DatanodeInfoBuilder().setIpAddr("10.0.0." + n).setHostName("dn" + n).setDatanodeUuid("uuid-" + n)
        .setXferPort(9866).setInfoPort(9864).setInfoSecurePort(0).setIpcPort(9867).setCapacity(1000L * n)
        .setDfsUsed(100).setRemaining(900).setBlockPoolUsed(50).setNonDfsUsed(7).setLastUpdate(1700000000000L)
        .setLastUpdateMonotonic(5000).setXceiverCount(3).setNetworkLocation("/rack" + n).build();
  }

  /** The byte at an offset of the block is the offset times 7, so that no chunk looks like another. */
  private static byte[] data(long offset, int len) {
    byte[] data = new byte[len];
    for (int i = 0; i < len; i++) {
      data[i] = (byte) ((offset + i) * 7 + (offset + i) / 256);
    }
    return data;
  }

  private static byte[] checksums(byte[] data) {
    // getChecksumSize counts one chunk in no data; the client sends no checksums then.
    byte[] sums = new byte[data.length == 0 ? 0 : CRC32C.getChecksumSize(data.length)];
    CRC32C.calculateChunkedSums(data, 0, data.length, sums, 0);
    return sums;
  }

  private static DFSPacket packet(long offset, long seqno, int len, boolean last, boolean sync) throws Exception {
    // Room for more chunks than there are, as the client has it: the packet closes the gap when it is written.
    byte[] buffer = new byte[PacketHeader.PKT_MAX_HEADER_LEN + 8 * (512 + 4)];
    DFSPacket packet = new DFSPacket(buffer, 8, offset, seqno, 4, last);
    byte[] data = data(offset, len);
    byte[] sums = checksums(data);
    packet.writeChecksum(sums, 0, sums.length);
    packet.writeData(ByteBuffer.wrap(data), len);
    if (sync) {
      Method setSyncBlock = DFSPacket.class.getDeclaredMethod("setSyncBlock", boolean.class);
      setSyncBlock.setAccessible(true);
      setSyncBlock.invoke(packet, true);
    }
    return packet;
  }

  private void save(String name, Body body) throws Exception {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (DataOutputStream out = new DataOutputStream(bytes)) {
      body.writeTo(out);
    }
    write(dir.resolve(name + ".hex"), bytes.toByteArray());
  }

  private static void write(Path file, byte[] bytes) throws IOException {
    StringBuilder hex = new StringBuilder();
    for (int i = 0; i < bytes.length; i++) {
      hex.append(String.format("%02x", bytes[i]));
      if (i % 32 == 31 || i == bytes.length - 1) {
        hex.append('\n');
      }
    }
    Files.write(file, hex.toString().getBytes(StandardCharsets.US_ASCII));
  }
}
